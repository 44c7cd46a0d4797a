// NCCL between processes of one host: ranks meet in a file that all of them map.
//
// As NCCL does, it refuses two ranks on one device, and a communicator that is aborted lets go of
// whoever waits. What one communicator is given is done in that order, on whatever streams.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "libraries.h"

enum { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6 };
static const int MOST_RANKS = 8;
static const size_t PIECE = 1 << 16;  // bytes that each rank shows the others at a time

// What one rank gives another: full between the one's writing and the other's reading.
struct Slot {
    std::atomic<int> full;
    char given[PIECE];
};

struct Meeting {
    std::atomic<int> arrived, generation, aborted;
    int devices[MOST_RANKS];
    alignas(64) char shown[MOST_RANKS][PIECE];
    Slot slots[MOST_RANKS][MOST_RANKS];  // of the one who sends, for the one who receives
};

struct Communicator {
    Meeting* meeting;
    int rank, size, device;
    std::atomic<int> error{SUCCESS};
    cudaEvent_t done = nullptr;  // with what it was given last

    // Wait until all ranks have come; return false where the communicator was aborted.
    bool meet() {
        const int generation = meeting->generation;
        if (++meeting->arrived == size) {
            meeting->arrived = 0;
            ++meeting->generation;
        }
        while (meeting->generation == generation) {
            if (meeting->aborted) {
                error = REMOTE_ERROR;
                return false;
            }
            usleep(20);
        }
        return true;
    }
};

struct UniqueId { char path[128]; };

PUBLIC int ncclGetVersion(int* version) {
    *version = 22703;
    return SUCCESS;
}

PUBLIC const char* ncclGetErrorString(int) { return "of the emulated NCCL"; }

PUBLIC int ncclGetUniqueId(UniqueId* made) {
    static int count = 0;
    memset(made, 0, sizeof *made);
    snprintf(made->path, sizeof made->path, "%s/nccl-%d-%d", getenv("DISTGRAD_EMULATOR"), getpid(),
             ++count);
    const int file = open(made->path, O_CREAT | O_RDWR, 0600);
    const bool made_room = file >= 0 && ftruncate(file, sizeof(Meeting)) == 0;
    close(file);
    return made_room ? SUCCESS : SYSTEM_ERROR;
}

PUBLIC int ncclCommInitRankConfig(Communicator** made, int size, UniqueId id, int rank, void*) {
    if (size > MOST_RANKS || rank < 0 || rank >= size) return INVALID_ARGUMENT;
    const int file = open(id.path, O_RDWR);
    void* place = mmap(nullptr, sizeof(Meeting), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (place == MAP_FAILED) return SYSTEM_ERROR;
    Communicator* own = new Communicator{(Meeting*)place, rank, size};
    cudaGetDevice(&own->device);
    cudaEventCreate(&own->done);
    own->meeting->devices[rank] = own->device;
    if (!own->meet()) return REMOTE_ERROR;
    for (int other = 0; other < size; ++other)
        if (other != rank && own->meeting->devices[other] == own->device) return INVALID_USAGE;
    *made = own;
    return SUCCESS;
}

PUBLIC int ncclCommAbort(Communicator* communicator) {
    communicator->meeting->aborted = 1;
    communicator->error = REMOTE_ERROR;
    return SUCCESS;  // it is kept: another thread may still wait in it
}

PUBLIC int ncclCommDestroy(Communicator*) { return SUCCESS; }

PUBLIC int ncclCommGetAsyncError(Communicator* communicator, int* error) {
    *error = communicator->error;
    return SUCCESS;
}

static void give(Communicator* own, void* stream, std::function<void()> work) {
    Handle handle = {stream};
    cudaStreamWaitEvent((cudaStream_t)stream, own->done, 0);
    submit(&handle, std::move(work), true);
    cudaEventRecord(own->done, (cudaStream_t)stream);
}

static const size_t WIDTHS[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};  // of ncclDataType_t

// --- messages from rank to rank -------------------------------------------------------------------

struct Message {
    Communicator* own;
    void* stream;
    char* place;
    size_t bytes;
    int peer;
    bool is_sent;

    // Give or take a piece if the slot lets us; return whether it did.
    bool moves() {
        Slot& slot = is_sent ? own->meeting->slots[own->rank][peer]
                             : own->meeting->slots[peer][own->rank];
        if (!bytes || slot.full == (int)is_sent) return false;
        const size_t length = std::min(PIECE, bytes);
        memcpy(is_sent ? slot.given : place, is_sent ? place : slot.given, length);
        slot.full = is_sent;
        place += length;
        bytes -= length;
        return true;
    }
};

static thread_local bool in_group = false;
static thread_local std::vector<Message> grouped;

static bool is_left(const Message& each) { return each.bytes != 0; }

// All messages of a group move on together, as far as the others let them.
static int submit_group() {
    if (grouped.empty()) return SUCCESS;
    std::vector<Message> messages = std::move(grouped);
    grouped.clear();
    give(messages[0].own, messages[0].stream, [messages]() mutable {
        Communicator* own = messages[0].own;
        while (std::any_of(messages.begin(), messages.end(), is_left)) {
            bool moved = false;
            for (Message& each : messages) moved |= each.moves();
            if (own->meeting->aborted) {
                own->error = REMOTE_ERROR;
                return;
            }
            if (!moved) usleep(20);
        }
    });
    return SUCCESS;
}

static int add_message(Message message) {
    if (message.peer < 0 || message.peer >= message.own->size) return INVALID_ARGUMENT;
    grouped.push_back(message);
    return in_group ? SUCCESS : submit_group();
}

PUBLIC int ncclGroupStart() {
    in_group = true;
    return SUCCESS;
}

PUBLIC int ncclGroupEnd() {
    in_group = false;
    return submit_group();
}

PUBLIC int ncclSend(
    const void* from, size_t count, int type, int peer, Communicator* own, void* stream) {
    return add_message({own, stream, (char*)from, count * WIDTHS[type], peer, true});
}

PUBLIC int ncclRecv(void* to, size_t count, int type, int peer, Communicator* own, void* stream) {
    return add_message({own, stream, (char*)to, count * WIDTHS[type], peer, false});
}

// --- collectives ----------------------------------------------------------------------------------

enum { SUM, PRODUCT, GREATEST, LEAST, MEAN };

// Join what all ranks show, in their order, in the dtype that is given.
template <class T>
bool reduce_pieces(Communicator* own, const void* from, void* to, size_t count, int how) {
    typedef std::conditional_t<sizeof(T) == 2 && std::is_class_v<T>, float, T> Wide;
    const size_t most = PIECE / sizeof(T);
    for (size_t begin = 0; begin < count; begin += most) {
        const size_t length = std::min(most, count - begin);
        memcpy(own->meeting->shown[own->rank], (const T*)from + begin, length * sizeof(T));
        if (!own->meet()) return false;
        for (size_t i = 0; i < length; ++i) {
            Wide joined = (Wide)((const T*)own->meeting->shown[0])[i];
            for (int rank = 1; rank < own->size; ++rank) {
                const Wide other = (Wide)((const T*)own->meeting->shown[rank])[i];
                joined = how == PRODUCT ? joined * other : how == GREATEST ? std::max(joined, other)
                    : how == LEAST ? std::min(joined, other) : joined + other;
            }
            ((T*)to)[begin + i] = (T)(how == MEAN ? joined / (Wide)own->size : joined);
        }
        if (!own->meet()) return false;
    }
    return true;
}

// The widths and kinds of ncclDataType_t.
PUBLIC int ncclAllReduce(
    const void* from, void* to, size_t count, int type, int how, Communicator* own, void* stream) {
    const auto given = [&](auto* typed) {
        typedef std::remove_reference_t<decltype(*typed)> T;
        give(own, stream, [=] { reduce_pieces<T>(own, from, to, count, how); });
        return SUCCESS;
    };
    switch (type) {
        case 0: return given((int8_t*)0);
        case 1: return given((uint8_t*)0);
        case 2: return given((int32_t*)0);
        case 3: return given((uint32_t*)0);
        case 4: return given((int64_t*)0);
        case 5: return given((uint64_t*)0);
        case 6: return given((__half*)0);
        case 7: return given((float*)0);
        case 8: return given((double*)0);
        case 9: return given((__nv_bfloat16*)0);
        default: return INVALID_ARGUMENT;
    }
}

PUBLIC int ncclReduceScatter(
    const void* from, void* to, size_t count, int type, int how, Communicator* own, void* stream) {
    if (type < 0 || type > 9) return INVALID_ARGUMENT;
    const size_t row = count * WIDTHS[type];
    char* all = (char*)malloc(row * own->size + 1);
    const int status = ncclAllReduce(from, all, count * own->size, type, how, own, stream);
    give(own, stream, [=] {
        memcpy(to, all + own->rank * row, row);
        free(all);
    });
    return status;
}

PUBLIC int ncclBroadcast(
    const void* from, void* to, size_t count, int type, int root, Communicator* own, void* stream) {
    if (type < 0 || type > 9) return INVALID_ARGUMENT;
    const size_t bytes = count * WIDTHS[type];
    give(own, stream, [=] {
        for (size_t begin = 0; begin < bytes; begin += PIECE) {
            const size_t length = std::min(PIECE, bytes - begin);
            if (own->rank == root)
                memcpy(own->meeting->shown[0], (const char*)from + begin, length);
            if (!own->meet()) return;
            memcpy((char*)to + begin, own->meeting->shown[0], length);
            if (!own->meet()) return;
        }
    });
    return SUCCESS;
}

PUBLIC int ncclBcast(void* data, size_t count, int type, int root, Communicator* own, void* stream) {
    return ncclBroadcast(data, data, count, type, root, own, stream);
}
