// Attention of single heads: blocks of scores that fit the second cache, from products to weights.
#include "bounded.hpp"
#include "crew.hpp"
#include "products.hpp"
using namespace distgrad;

constexpr index_t ROWS = 96;       // query rows at once
constexpr index_t KEYS = 256;      // keys at once: a multiple of PANEL
constexpr index_t FEW_KEYS = 64;   // keys of whose values a panel stays in the first cache
constexpr int NO_MASK = 0, CHOICE = 1;  // a mask of bytes; any other is one of numbers to be added

// Where the heads of an array lie: problems of `inner` heads each, whose rows have no gaps within.
// Steps are in numbers: heads may lie side by side within a row, as projections leave them.
struct Places {
    index_t outer, head, row;
    template <class T>
    T* at(T* data, index_t inner, index_t place) const {
        return data + place / inner * outer + place % inner * head;
    }
};

// A matrix as right side: in place where its rows are whole panels, else laid out anew.
struct Right {
    const float* data;
    index_t rows, columns, row;  // `row`: how far rows are apart that stay in place; 0 for others
    index_t width(index_t j) const { return width_of(j, columns); }
    index_t step(index_t j) const { return row ? row : width(j); }
    const float* at(index_t place, index_t j) const {
        return row ? data + place * row + j : data + j * rows + place * width(j);
    }
};

inline bool fits(index_t columns) { return arranged_columns(columns) == columns; }

// A right side, in `room` if it does not fit as it is.
APART inline Right right_side(const float* from, index_t rows, index_t columns, index_t row,
                              float*& room) {
    if (fits(columns) && row > 0) return {from, rows, columns, row};
    const float* data = room;
    arrange(rows, columns, from, room, row);
    room += rows * arranged_columns(columns);
    return {data, rows, columns, 0};
}

// The transpose of (rows, columns) as right side, in `room`.
APART inline Right turned(const float* from, index_t rows, index_t columns, index_t row,
                          float*& room) {
    const float* data = room;
    arrange_transpose(columns, rows, from, room, row);
    room += columns * arranged_columns(rows);
    return {data, columns, rows, 0};
}

// What there is of one problem: `causal` says whether row r sees keys 0 ... r + offset only.
struct Shape {
    index_t rows, keys, width, out_width, causal, offset;
    // How many keys a row sees, and the first row of those from `begin` that sees a key.
    index_t seen(index_t row) const {
        return causal ? most(0, least(row + offset + 1, keys)) : keys;
    }
    index_t first_row(index_t begin, index_t key) const {
        return causal ? most(0, key - offset - begin) : 0;
    }
};

struct Mask {
    const void* data;
    index_t kind, head_step, row_step;  // steps in elements
    // Mask a row's scores of `count` keys.
    APART void apply(index_t head, index_t row, index_t key, index_t count, float* scores) const {
        if (kind == NO_MASK) return;
        const index_t first = head * head_step + row * row_step + key;
        if (kind == CHOICE) {
            const unsigned char* seen = (const unsigned char*)data + first;
            for (index_t i = 0; i < count; ++i)
                scores[i] = seen[i] ? scores[i] : -__builtin_inff();
        } else {
            const float* added = (const float*)data + first;
            for (index_t i = 0; i < count; ++i) scores[i] += added[i];
        }
    }
};

// scores (rows, KEYS) = left right, for the keys from `key` on and rows that see any of them.
APART inline void score(const Shape& shape, index_t begin, index_t rows, index_t key, index_t count,
                        const float* left, index_t depth, index_t row, const Right& right,
                        float* scores) {
    for (index_t j = key; j < key + count; j += PANEL) {
        const index_t first = shape.first_row(begin, j);
        if (first < rows)
            panel(rows - first, depth, left + first * row, row, right.at(0, j), right.step(j),
                  right.width(j), scores + first * KEYS + (j - key), KEYS, false);
    }
}

// to (rows, columns of right) += weights (rows, KEYS) right, whose rows are the keys from `key` on.
APART inline void gather(const Shape& shape, index_t begin, index_t rows, index_t key,
                         index_t count, const float* weights, const Right& right, float* to,
                         index_t wide) {
    for (index_t j = 0; j < right.columns; j += PANEL)
        for (index_t k = 0; k < count; k += FEW_KEYS) {
            const index_t first = shape.first_row(begin, key + k);
            if (first < rows)
                panel(rows - first, least(FEW_KEYS, count - k), weights + first * KEYS + k, KEYS,
                      right.at(key + k, j), right.step(j), right.width(j), to + first * wide + j,
                      wide, true);
        }
}

// to (keys from `key` on, columns of right) += weights^T right, whose rows are those of the block.
APART inline void scatter(const Shape& shape, index_t begin, index_t rows, index_t key,
                          index_t count, const float* weights, const Right& right, float* to,
                          index_t apart) {
    for (index_t j = 0; j < right.columns; j += PANEL)
        for (index_t k = 0; k < count; k += FEW_KEYS) {
            const index_t first = shape.first_row(begin, key + k);
            if (first < rows)
                panel<true>(least(FEW_KEYS, count - k), rows - first, weights + first * KEYS + k,
                            KEYS, right.at(first, j), right.step(j), right.width(j),
                            to + (key + k) * apart + j, apart, true);
        }
}

APART inline void fill(float* to, index_t count, float value) {
    for (index_t i = 0; i < count; ++i) to[i] = value;
}

APART inline void scaled(const float* from, index_t count, float scale, float* __restrict to) {
    for (index_t i = 0; i < count; ++i) to[i] = from[i] * scale;
}

// Rows of another distance, scaled.
APART inline void scaled_rows(index_t rows, index_t width, const float* from, index_t step,
                              float scale, float* to, index_t apart) {
    for (index_t row = 0; row < rows; ++row)
        scaled(from + row * step, width, scale, to + row * apart);
}

// The greatest of some numbers and `top`; NaN is passed over.
APART inline float greatest(const float* x, index_t count, float top) {
    vector_t tops = top - vector_t{};
    index_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const vector_t next = *(const vector_t*)(x + i);
        tops = next > tops ? next : tops;
    }
    for (; i < count; ++i) top = x[i] > top ? x[i] : top;
    for (int lane = 0; lane < LANES; ++lane) top = tops[lane] > top ? tops[lane] : top;
    return top;
}

// Replace scores by exp(score - shift), and return their sum.
APART inline float exponentials(float* scores, index_t count, float shift) {
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (index_t i = 0; i < count; ++i) {
        scores[i] = weight(scores[i] - shift);
        total += scores[i];
    }
    return total;
}

// weights = exp(score - shift); to = weights (to - centre).
APART inline void pull(float* __restrict scores, float* __restrict to, index_t count, float shift,
                       float centre) {
#pragma omp simd
    for (index_t i = 0; i < count; ++i) {
        const float w = weight(scores[i] - shift);
        scores[i] = w;
        to[i] = w * (to[i] - centre);
    }
}

APART inline float dot(const float* a, const float* b, index_t count) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (index_t i = 0; i < count; ++i) sum += a[i] * b[i];
    return sum;
}

// Rows in which sums are made: in place where they are whole panels, else in `room` until the end.
struct Sums {
    float *place, *data;
    index_t apart, row, rows, width;
    Sums(float* place, index_t apart, index_t rows, index_t width, float*& room)
        : place(place), data(place), apart(apart), row(apart), rows(rows), width(width) {
        if (!fits(width)) {
            data = room;
            row = arranged_columns(width);
            room += rows * row;
        }
        for (index_t r = 0; r < rows; ++r) fill(data + r * row, arranged_columns(width), 0.0f);
    }
    void end() const {
        if (data != place) scaled_rows(rows, width, data, row, 1.0f, place, apart);
    }
};

// How many numbers of room a worker needs, forward and backward: whole lines of the cache.
KERNEL index_t room(index_t keys, index_t width, index_t out_width) {
    const index_t arranged = arranged_columns(keys) + keys + ROWS;
    const index_t wide = arranged_columns(width) + arranged_columns(out_width);
    return (2 * ROWS * KEYS + 2 * arranged * wide + 2 * ROWS * wide + 15) / 16 * 16;
}

// Some heads of query (heads, rows, width), key (heads, keys, width), and value (heads,
// keys, out_width): the output, and of each row the logarithm of its exponentials' sum. `places` are
// those of query, key, value and output.
static void attention(const Piece& piece, index_t rows, index_t keys, index_t width,
                      index_t out_width, index_t causal, index_t offset, float scale,
                      const void* mask_data, index_t kind, index_t head_step, index_t row_step,
                      index_t inner, const Places* places, const float* query, const float* key,
                      const float* value, float* rooms, float* output, float* sums) {
    const Shape shape{rows, keys, width, out_width, causal, offset};
    const Mask mask{mask_data, kind, head_step, row_step};
    const index_t wide = arranged_columns(out_width);
    const float least_number = -__builtin_inff();
    float* const scores = rooms + piece.worker * room(keys, width, out_width);
    float* const gathered = scores + ROWS * KEYS;
    float* const queries = gathered + ROWS * wide;
    float tops[ROWS], totals[ROWS];
    for (index_t head = piece.begin; head < piece.end; ++head) {
        float* rest = queries + ROWS * width;
        const float* own_query = places[0].at(query, inner, head);
        float* own_output = places[3].at(output, inner, head);
        const Right key_columns =
            turned(places[1].at(key, inner, head), keys, width, places[1].row, rest);
        const Right values =
            right_side(places[2].at(value, inner, head), keys, out_width, places[2].row, rest);
        for (index_t first = 0; first < rows; first += ROWS) {
            const index_t count = least(ROWS, rows - first), place = head * rows + first;
            scaled_rows(count, width, own_query + first * places[0].row, places[0].row, scale,
                        queries, width);
            fill(gathered, count * wide, 0.0f);
            fill(tops, count, least_number);
            fill(totals, count, 0.0f);
            const index_t last = shape.seen(first + count - 1);
            for (index_t k = 0; k < last; k += KEYS) {
                const index_t several = least(KEYS, last - k);
                score(shape, first, count, k, several, queries, width, width, key_columns, scores);
                for (index_t row = 0; row < count; ++row) {
                    float* own = scores + row * KEYS;
                    const index_t seen = most(0, least(several, shape.seen(first + row) - k));
                    fill(own + seen, several - seen, 0.0f);
                    if (!seen) continue;
                    mask.apply(head, first + row, k, seen, own);
                    const float top = greatest(own, seen, tops[row]);
                    const float shift = top == least_number ? 0.0f : top;
                    const float factor = weight(tops[row] - shift);
                    totals[row] = totals[row] * factor + exponentials(own, seen, shift);
                    if (k && factor != 1.0f)
                        for (index_t i = 0; i < wide; ++i) gathered[row * wide + i] *= factor;
                    tops[row] = top;
                }
                gather(shape, first, count, k, several, scores, values, gathered, wide);
            }
            for (index_t row = 0; row < count; ++row) {
                const bool blind = !shape.seen(first + row) ||
                                   (kind == CHOICE && tops[row] == least_number);
                const float factor = blind ? 0.0f : 1.0f / totals[row];
                float* const to = own_output + (first + row) * places[3].row;
                scaled(gathered + row * wide, out_width, factor, to);
                sums[place + row] =
                    tops[row] == least_number ? 0.0f : tops[row] + log(totals[row]);
            }
        }
    }
}

SHARED(attention)

// The cotangents of query, key and value; those of the sums may be missing. `places` are those of
// query, key, value, output, g, and the three cotangents.
static void attention_vjp(const Piece& piece, index_t rows, index_t keys, index_t width,
                          index_t out_width, index_t causal, index_t offset, float scale,
                          const void* mask_data, index_t kind, index_t head_step, index_t row_step,
                          index_t inner, const Places* places, const float* query,
                          const float* key, const float* value, const float* output, const float* sums,
                          const float* g, const float* g_sums, float* rooms, float* to_query,
                          float* to_key, float* to_value) {
    const Shape shape{rows, keys, width, out_width, causal, offset};
    const Mask mask{mask_data, kind, head_step, row_step};
    const index_t wide = arranged_columns(width);
    float* const scores = rooms + piece.worker * room(keys, width, out_width);
    float* const to_scores = scores + ROWS * KEYS;
    float *const gathered = to_scores + ROWS * KEYS, *const queries = gathered + ROWS * wide;
    for (index_t head = piece.begin; head < piece.end; ++head) {
        float* rest = queries + ROWS * width;
        const float* own_query = places[0].at(query, inner, head);
        const float* own_key = places[1].at(key, inner, head);
        const float* own_output = places[3].at(output, inner, head);
        float* own_to_query = places[5].at(to_query, inner, head);
        const Right key_columns = turned(own_key, keys, width, places[1].row, rest);
        const Right value_columns =
            turned(places[2].at(value, inner, head), keys, out_width, places[2].row, rest);
        const Right key_rows = right_side(own_key, keys, width, places[1].row, rest);
        Sums to_keys{places[6].at(to_key, inner, head), places[6].row, keys, width, rest};
        Sums to_values{places[7].at(to_value, inner, head), places[7].row, keys, out_width, rest};
        for (index_t first = 0; first < rows; first += ROWS) {
            const index_t count = least(ROWS, rows - first), place = head * rows + first;
            const index_t g_row = places[4].row;
            const float* own_g = places[4].at(g, inner, head) + first * g_row;
            float* more = rest;
            scaled_rows(count, width, own_query + first * places[0].row, places[0].row, scale,
                        queries, width);
            const Right query_rows = right_side(queries, count, width, width, more);
            const Right g_rows = right_side(own_g, count, out_width, g_row, more);
            fill(gathered, count * wide, 0.0f);
            const index_t last = shape.seen(first + count - 1);
            for (index_t k = 0; k < last; k += KEYS) {
                const index_t several = least(KEYS, last - k);
                score(shape, first, count, k, several, queries, width, width, key_columns, scores);
                score(shape, first, count, k, several, own_g, out_width, g_row, value_columns,
                      to_scores);
                for (index_t row = 0; row < count; ++row) {
                    float *own = scores + row * KEYS, *to = to_scores + row * KEYS;
                    const index_t seen = most(0, least(several, shape.seen(first + row) - k));
                    fill(own + seen, several - seen, 0.0f);
                    fill(to + seen, several - seen, 0.0f);
                    if (!seen) continue;
                    mask.apply(head, first + row, k, seen, own);
                    const float* y = own_output + (first + row) * places[3].row;
                    const float centre = dot(y, own_g + row * g_row, out_width) -
                                         (g_sums ? g_sums[place + row] : 0.0f);
                    pull(own, to, seen, sums[place + row], centre);
                }
                scatter(shape, first, count, k, several, scores, g_rows, to_values.data,
                        to_values.row);
                scatter(shape, first, count, k, several, to_scores, query_rows, to_keys.data,
                        to_keys.row);
                gather(shape, first, count, k, several, to_scores, key_rows, gathered, wide);
            }
            scaled_rows(count, width, gathered, wide, scale,
                        own_to_query + first * places[5].row, places[5].row);
        }
        to_keys.end();
        to_values.end();
    }
}

SHARED(attention_vjp)
