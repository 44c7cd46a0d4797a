// Attention of single heads: blocks of scores that fit the second cache, from products to weights.
#include "bounded.hpp"
#include "products.hpp"
using namespace distgrad;

constexpr index_t ROWS = 96;       // query rows at once
constexpr index_t KEYS = 256;      // keys at once: a multiple of PANEL
constexpr index_t FEW_KEYS = 64;   // keys of whose values a panel stays in the first cache
constexpr int NO_MASK = 0, CHOICE = 1;  // a mask of bytes; any other is one of numbers to be added

// A matrix as right side: in place where its rows are whole panels, else laid out anew.
struct Right {
    const float* data;
    index_t rows, columns;
    bool in_place;
    index_t width(index_t j) const { return width_of(j, columns); }
    index_t step(index_t j) const { return in_place ? columns : width(j); }
    const float* at(index_t row, index_t j) const {
        return in_place ? data + row * columns + j : data + j * rows + row * width(j);
    }
};

inline bool fits(index_t columns) { return arranged_columns(columns) == columns; }

// A right side, in `room` if it does not fit as it is.
APART inline Right right_side(const float* from, index_t rows, index_t columns, float*& room) {
    if (fits(columns)) return {from, rows, columns, true};
    const float* data = room;
    arrange(rows, columns, from, room);
    room += rows * arranged_columns(columns);
    return {data, rows, columns, false};
}

// The transpose of (rows, columns) as right side, in `room`.
APART inline Right turned(const float* from, index_t rows, index_t columns, float*& room) {
    const float* data = room;
    arrange_transpose(columns, rows, from, room);
    room += columns * arranged_columns(rows);
    return {data, columns, rows, false};
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
                        const float* left, index_t depth, const Right& right, float* scores) {
    for (index_t j = key; j < key + count; j += PANEL) {
        const index_t first = shape.first_row(begin, j);
        if (first < rows)
            panel(rows - first, depth, left + first * depth, depth, right.at(0, j), right.step(j),
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
                          index_t wide) {
    for (index_t j = 0; j < right.columns; j += PANEL)
        for (index_t k = 0; k < count; k += FEW_KEYS) {
            const index_t first = shape.first_row(begin, key + k);
            if (first < rows)
                panel<true>(least(FEW_KEYS, count - k), rows - first, weights + first * KEYS + k,
                            KEYS, right.at(first, j), right.step(j), right.width(j),
                            to + (key + k) * wide + j, wide, true);
        }
}

APART inline void fill(float* to, index_t count, float value) {
    for (index_t i = 0; i < count; ++i) to[i] = value;
}

APART inline void scaled(const float* from, index_t count, float scale, float* __restrict to) {
    for (index_t i = 0; i < count; ++i) to[i] = from[i] * scale;
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

// How many numbers of room a head needs, forward and backward.
KERNEL index_t room(index_t keys, index_t width, index_t out_width) {
    const index_t arranged = arranged_columns(keys) + keys + ROWS;
    const index_t wide = arranged_columns(width) + arranged_columns(out_width);
    return 2 * ROWS * KEYS + 2 * arranged * wide + 2 * ROWS * wide;
}

// Heads begin <= h < end of query (heads, rows, width), key (heads, keys, width), and value (heads,
// keys, out_width): the output, and of each row the logarithm of its exponentials' sum.
KERNEL void attention(index_t begin, index_t end, index_t rows, index_t keys, index_t width,
                      index_t out_width, index_t causal, index_t offset, float scale,
                      const void* mask_data, index_t kind, index_t head_step, index_t row_step,
                      const float* query, const float* key, const float* value, float* room,
                      float* output, float* sums) {
    const Shape shape{rows, keys, width, out_width, causal, offset};
    const Mask mask{mask_data, kind, head_step, row_step};
    const index_t wide = arranged_columns(out_width);
    const float least_number = -__builtin_inff();
    float *const scores = room, *const gathered = scores + ROWS * KEYS;
    float* const queries = gathered + ROWS * wide;
    float tops[ROWS], totals[ROWS];
    for (index_t head = begin; head < end; ++head) {
        float* rest = queries + ROWS * width;
        const Right key_columns = turned(key + head * keys * width, keys, width, rest);
        const Right values = right_side(value + head * keys * out_width, keys, out_width, rest);
        for (index_t first = 0; first < rows; first += ROWS) {
            const index_t count = least(ROWS, rows - first), place = head * rows + first;
            scaled(query + place * width, count * width, scale, queries);
            fill(gathered, count * wide, 0.0f);
            fill(tops, count, least_number);
            fill(totals, count, 0.0f);
            const index_t last = shape.seen(first + count - 1);
            for (index_t k = 0; k < last; k += KEYS) {
                const index_t several = least(KEYS, last - k);
                score(shape, first, count, k, several, queries, width, key_columns, scores);
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
                float* const to = output + (place + row) * out_width;
                scaled(gathered + row * wide, out_width, factor, to);
                sums[place + row] =
                    tops[row] == least_number ? 0.0f : tops[row] + log(totals[row]);
            }
        }
    }
}

// The cotangents of query, key and value; those of the sums may be missing.
KERNEL void attention_vjp(index_t begin, index_t end, index_t rows, index_t keys, index_t width,
                          index_t out_width, index_t causal, index_t offset, float scale,
                          const void* mask_data, index_t kind, index_t head_step, index_t row_step,
                          const float* query, const float* key, const float* value,
                          const float* output, const float* sums,
                          const float* g, const float* g_sums, float* room, float* to_query,
                          float* to_key, float* to_value) {
    const Shape shape{rows, keys, width, out_width, causal, offset};
    const Mask mask{mask_data, kind, head_step, row_step};
    const index_t wide = arranged_columns(width), out_wide = arranged_columns(out_width);
    float *const scores = room, *const to_scores = scores + ROWS * KEYS;
    float *const gathered = to_scores + ROWS * KEYS, *const queries = gathered + ROWS * wide;
    for (index_t head = begin; head < end; ++head) {
        float* rest = queries + ROWS * width;
        const Right key_columns = turned(key + head * keys * width, keys, width, rest);
        const Right value_columns = turned(value + head * keys * out_width, keys, out_width, rest);
        const Right key_rows = right_side(key + head * keys * width, keys, width, rest);
        float* const keys_end = fits(width) ? to_key + head * keys * width : rest;
        rest += fits(width) ? 0 : keys * wide;
        float* const values_end = fits(out_width) ? to_value + head * keys * out_width : rest;
        rest += fits(out_width) ? 0 : keys * out_wide;
        fill(keys_end, keys * wide, 0.0f);
        fill(values_end, keys * out_wide, 0.0f);
        for (index_t first = 0; first < rows; first += ROWS) {
            const index_t count = least(ROWS, rows - first), place = head * rows + first;
            const float* own_g = g + place * out_width;
            float* more = rest;
            scaled(query + place * width, count * width, scale, queries);
            const Right query_rows = right_side(queries, count, width, more);
            const Right g_rows = right_side(own_g, count, out_width, more);
            fill(gathered, count * wide, 0.0f);
            const index_t last = shape.seen(first + count - 1);
            for (index_t k = 0; k < last; k += KEYS) {
                const index_t several = least(KEYS, last - k);
                score(shape, first, count, k, several, queries, width, key_columns, scores);
                score(shape, first, count, k, several, own_g, out_width, value_columns, to_scores);
                for (index_t row = 0; row < count; ++row) {
                    float *own = scores + row * KEYS, *to = to_scores + row * KEYS;
                    const index_t seen = most(0, least(several, shape.seen(first + row) - k));
                    fill(own + seen, several - seen, 0.0f);
                    fill(to + seen, several - seen, 0.0f);
                    if (!seen) continue;
                    mask.apply(head, first + row, k, seen, own);
                    const float* y = output + (place + row) * out_width;
                    const float centre = dot(y, own_g + row * out_width, out_width) -
                                         (g_sums ? g_sums[place + row] : 0.0f);
                    pull(own, to, seen, sums[place + row], centre);
                }
                scatter(shape, first, count, k, several, scores, g_rows, values_end, out_wide);
                scatter(shape, first, count, k, several, to_scores, query_rows, keys_end, wide);
                gather(shape, first, count, k, several, to_scores, key_rows, gathered, wide);
            }
            for (index_t row = 0; row < count; ++row)
                scaled(gathered + row * wide, width, scale, to_query + (place + row) * width);
        }
        if (!fits(width))
            for (index_t row = 0; row < keys; ++row)
                scaled(keys_end + row * wide, width, 1.0f, to_key + (head * keys + row) * width);
        if (!fits(out_width))
            for (index_t row = 0; row < keys; ++row)
                scaled(values_end + row * out_wide, out_width, 1.0f,
                       to_value + (head * keys + row) * out_width);
    }
}
