// Streams of the emulated device: what waits in them, and when it is run.
//
// A device works when it gets to it. So what is given to a stream lies there until somebody waits
// for it, or for what comes after it: as late as CUDA lets a device be. Whoever waits runs it
// himself. Streams that another rank or another thread may be waiting for, and those that somebody
// keeps asking about, go on by themselves.
//
// A stream that forgets to wait for another one may still find all done, where somebody waits for
// that other one first. So there is an order, too, in which streams that block nobody are as early
// as they can be, and the others late.
#pragma once
#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

using Work = std::function<void()>;
using Clock = std::chrono::steady_clock;

static const std::chrono::milliseconds PATIENCE(50);  // of others with a stream that nobody waits for
static const int POLLS = 8;  // that find a stream at work before it gets on

static std::recursive_mutex everything;
static thread_local int the_device = 0;

#define ONE_AT_A_TIME std::lock_guard<std::recursive_mutex> held(everything)

// When work is done: see above, or when it is given; or never, to see what the host takes to give it.
enum Order { LATE, ASIDE_FIRST, AT_ONCE, NEVER, UNKNOWN };

static Order order_called(const char* name) {
    const std::string given = name && *name ? name : "late";
    return given == "late" ? LATE : given == "aside first" ? ASIDE_FIRST
        : given == "at once" ? AT_ONCE : given == "never" ? NEVER : UNKNOWN;
}

static Order order = order_called(getenv("DISTGRAD_EMULATED_ORDER"));

struct Stream;

// A place in a stream, which is reached when all work before it is done.
struct Record {
    std::shared_ptr<Stream> stream;
    long place = 0;
    std::atomic<double> milliseconds{0};  // when it was reached

    bool is_reached() const;
    void reach() const;
};

struct Event {
    const int device;
    std::shared_ptr<Record> record;  // the last one
};

struct Graph {
    std::vector<Work> works;
    std::shared_ptr<Record> launched;  // the end of the last launch, which the next one comes after
};

struct Stream : std::enable_shared_from_this<Stream> {
    const int device;
    const bool is_default;  // the legacy one
    const unsigned flags;
    std::unique_ptr<Graph> captured;
    bool is_invalid = false, is_relaxed = true, is_destroyed = false;

    std::deque<Work> waiting;
    long given = 0;              // works, since it was made
    std::atomic<long> done{0};
    bool is_running = false;     // a work, by some thread
    int polls = 0;
    std::atomic<long> awaited{0};  // the place behind the last work that others may wait for
    bool has_thread = false;
    std::multimap<Clock::time_point, long> due;  // from when on it goes on by itself, and to where
    std::condition_variable_any changed;  // what is done, or due

    Stream(int device, bool is_default, unsigned flags)
        : device(device), is_default(is_default), flags(flags) {}

    bool is_blocking() const { return !(flags & cudaStreamNonBlocking); }
    bool is_over() const { return is_destroyed && done >= given; }

    // Whoever comes while another thread runs a work waits for that one alone: what this other
    // thread runs on the way was given earlier, so two never wait for each other.
    void run_to(long place) {
        std::unique_lock<std::recursive_mutex> lock(everything);
        while (done < place) {
            if (is_running) {
                changed.wait(lock);
                continue;
            }
            is_running = true;
            Work work = std::move(waiting.front());
            waiting.pop_front();
            lock.unlock();
            work();  // not while it is held: some work waits for other ranks
            lock.lock();
            is_running = false;
            ++done;
            changed.notify_all();
        }
    }

    void wait_for(const std::shared_ptr<Stream>& other, long place) {
        if (other.get() == this || other->done >= place) return;
        waiting.push_back([=] { other->run_to(place); });
        ++given;
    }

    // Return the place behind a work.
    long give(Work work);

    // Have it get to a place some time from now, whoever waits.
    void go_on(long place, Clock::duration after) {
        ONE_AT_A_TIME;
        due.emplace(Clock::now() + after, place);
        if (!has_thread) std::thread([own = shared_from_this()] { own->go_on_when_due(); }).detach();
        has_thread = true;
        changed.notify_all();
    }

    void go_on_when_due() {
        std::unique_lock<std::recursive_mutex> lock(everything);
        while (!is_over() || !due.empty()) {
            if (due.empty()) {
                changed.wait(lock);
            } else if (Clock::now() < due.begin()->first) {
                const auto until = due.begin()->first;
                changed.wait_until(lock, until);
            } else {
                const long place = due.begin()->second;
                due.erase(due.begin());
                lock.unlock();
                run_to(place);
                lock.lock();
            }
        }
    }
};

// Those that were made; some of their threads outlive the end of the program.
static auto& streams = *new std::vector<std::shared_ptr<Stream>>;
static auto& default_streams = *new std::map<int, std::shared_ptr<Stream>>;

static std::shared_ptr<Stream> make_stream(bool is_default, unsigned flags) {
    ONE_AT_A_TIME;
    for (size_t i = streams.size(); i--;)
        if (streams[i]->is_over()) streams.erase(streams.begin() + i);
    streams.push_back(std::make_shared<Stream>(the_device, is_default, flags));
    return streams.back();
}

static Stream* default_stream() {
    ONE_AT_A_TIME;
    auto& found = default_streams[the_device];
    if (!found) found = make_stream(true, 0);
    return found.get();
}

static Stream* stream_of(void* handle) {  // 0, 1 and 2 are names
    static thread_local std::map<int, std::shared_ptr<Stream>> of_the_thread;
    if ((size_t)handle < 2) return default_stream();
    if ((size_t)handle > 2) return (Stream*)handle;
    auto& found = of_the_thread[the_device];
    if (!found) found = make_stream(false, 0);
    return found.get();
}

// What the legacy default stream is given comes after what was given to blocking streams, and what
// these are given later comes after that. A copy between two devices in it comes, by CUDA's guide,
// after what both were given; not here, where default streams stand for others, too, of which the
// guide says no such thing.
inline long Stream::give(Work work) {
    if (is_blocking())
        for (const auto& each : streams)
            if (each->device == device && each->is_blocking() && is_default != each->is_default)
                wait_for(each, each->given);
    waiting.push_back(std::move(work));
    return ++given;
}

inline bool Record::is_reached() const { return !stream || stream->done >= place; }

inline void Record::reach() const {
    if (stream) stream->run_to(place);
}

// Let a stream have got what it was given up to a place; somebody else may wait for that.
static void leave(const std::shared_ptr<Stream>& stream, long place, bool is_awaited) {
    if (is_awaited) stream->awaited = place;
    if (order != ASIDE_FIRST || stream->is_blocking()) {
        if (is_awaited) stream->go_on(place, PATIENCE);
    } else if (stream->done < stream->awaited) {
        stream->go_on(place, Clock::duration(0));  // the host waits for no other rank
    } else {
        stream->run_to(place);
    }
}

// Give work to a stream; somebody else than the caller may wait for it.
static cudaError_t submit(void* handle, Work work, bool is_awaited = false) {
    if (order == NEVER) return cudaSuccess;
    std::shared_ptr<Stream> stream;
    long place = 0;
    {
        ONE_AT_A_TIME;
        stream = stream_of(handle)->shared_from_this();
        if (Graph* graph = stream->captured.get()) {
            graph->works.push_back(std::move(work));
            return cudaSuccess;
        }
        if (order != AT_ONCE) place = stream->give(std::move(work));
    }
    if (place) leave(stream, place, is_awaited);
    else work();  // not while it is held
    return cudaSuccess;
}

static std::shared_ptr<Record> record_in(Stream* stream) {
    const auto record = std::make_shared<Record>();
    const auto note = [](Record& reached) {
        const auto now = Clock::now().time_since_epoch();
        reached.milliseconds = std::chrono::duration<double, std::milli>(now).count();
    };
    if (order == AT_ONCE || order == NEVER) {
        note(*record);
        return record;
    }
    record->stream = stream->shared_from_this();
    {
        ONE_AT_A_TIME;
        record->place = stream->give([=] { note(*record); });
    }
    leave(record->stream, record->place, false);
    return record;
}

static void wait_in(Stream* stream, const std::shared_ptr<Record>& record) {
    ONE_AT_A_TIME;
    if (record && !record->is_reached()) stream->give([=] { record->reach(); });
}

// Run all that a stream was given.
static void run_all_of(Stream* stream) {
    const auto kept = stream->shared_from_this();
    everything.lock();
    const long place = stream->given;
    everything.unlock();
    stream->run_to(place);
}

// Run all that was given to the streams of a device, or of every one.
static void run_all(int device = -1) {
    everything.lock();
    const auto found = streams;
    everything.unlock();
    for (const auto& each : found)
        if (device < 0 || each->device == device) run_all_of(each.get());
}

// Answer somebody who asks whether a place is reached, and does not wait.
static cudaError_t ask(Stream* stream, long place) {
    ONE_AT_A_TIME;
    if (stream->done >= place) return cudaSuccess;
    if (++stream->polls % POLLS == 0) stream->go_on(place, Clock::duration(0));
    return cudaErrorNotReady;
}
