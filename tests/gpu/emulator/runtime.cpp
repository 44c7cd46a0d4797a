// CUDA's driver and runtime on a host: its memory is the device's.
//
// Work waits in streams (`streams.h`); what is given to one that is captured is kept for its graph.
// Memory is filled with NaN before it is handed out, and around each block stands a pattern that is
// looked at when the block is given back. Who is given an address that is not the device's ends the
// process, as a device does.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "streams.h"

#define PUBLIC extern "C" __attribute__((visibility("default")))

struct Block { size_t bytes; int device; };

static const size_t MARGIN = 512;  // before and behind each block; what the device aligns to
static const unsigned char PATTERN = 0xA5;
static const size_t PARAMETERS = 4096;  // of a kernel, before CUDA 12.1
static const size_t MEMORY = (size_t)8 << 30;

static thread_local cudaError_t last_error = cudaSuccess;
// Some streams' threads outlive the end of the program, and look here.
static auto &blocks = *new std::map<const char*, Block>, &pinned = *new std::map<const char*, Block>;
static int strict_captures = 0;  // those during which no thread may allocate or wait

static cudaError_t failed(cudaError_t error) { return last_error = error; }

[[noreturn]] static void die(const char* format, const char* what, long number) {
    fprintf(stderr, "emulated device: ");
    fprintf(stderr, format, what, number);
    fprintf(stderr, "\n");
    abort();
}

// What the libraries beside this one give work by: such as others may wait for, and other work.
PUBLIC void emulated_submit(void* stream, void (*work)(void*), void* state, bool is_awaited) {
    submit(stream, [=] { work(state); }, is_awaited);
}

// Do work in another order from now on.
PUBLIC void emulated_be(const char* name) {
    run_all();
    order = order_called(name);
    if (order == UNKNOWN) die("%s is no order of work", name, 0);
}

PUBLIC int emulated_missing(const char* name) {
    die("%s is not among what it has", name, 0);
}

// Functions that Python knows, and the libraries beside this one call: LAPACK's, and transforms.
static std::map<std::string, void*> known;

PUBLIC void emulated_know(const char* name, void* function) { known[name] = function; }

PUBLIC void* emulated_known(const char* name) {
    auto found = known.find(name);
    if (found == known.end()) die("%s was not made known", name, 0);
    return found->second;
}

// Make a function begin with a jump to another.
PUBLIC void emulated_redirect(unsigned char* from, void* to) {
    const size_t page = sysconf(_SC_PAGESIZE);
    unsigned char* start = (unsigned char*)((size_t)from / page * page);
    mprotect(start, 2 * page, PROT_READ | PROT_WRITE | PROT_EXEC);
#if defined(__x86_64__)  // mov rax, to; jmp rax
    const unsigned char load[] = {0x48, 0xB8}, jump[] = {0xFF, 0xE0};
    memcpy(from, load, 2);
    memcpy(from + 2, &to, 8);
    memcpy(from + 10, jump, 2);
#elif defined(__aarch64__)  // ldr x16, to; br x16
    const unsigned jump[] = {0x58000050, 0xD61F0200};
    memcpy(from, jump, 8);
    memcpy(from + 8, &to, 8);
#else
#error "an emulated device wants a processor of x86-64 or of AArch64"
#endif
    __builtin___clear_cache((char*)from, (char*)from + 16);
}

// --- devices --------------------------------------------------------------------------------------

static int device_count() {
    const char* given = getenv("DISTGRAD_EMULATED_DEVICES");
    return given ? atoi(given) : 1;
}

PUBLIC cudaError_t cudaGetDeviceCount(int* count) {
    if (order == UNKNOWN) die("%s is no order of work", getenv("DISTGRAD_EMULATED_ORDER"), 0);
    *count = device_count();
    return cudaSuccess;
}

PUBLIC cudaError_t cudaGetDevice(int* device) {
    *device = the_device;
    return cudaSuccess;
}

PUBLIC cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
    the_device = device;
    return cudaSuccess;
}

PUBLIC cudaError_t cudaDriverGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

PUBLIC cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

PUBLIC cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
        case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
        case cudaDevAttrMultiProcessorCount: *value = 4; break;
        case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
        case cudaDevAttrWarpSize: *value = 32; break;
        case cudaDevAttrMaxGridDimX: *value = 0x7FFFFFFF; break;
        default: *value = 0;
    }
    return cudaSuccess;
}

PUBLIC cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int) {
    memset(found, 0, sizeof *found);
    strcpy(found->name, "emulated device");
    found->major = 9;
    found->multiProcessorCount = 4;
    found->totalGlobalMem = MEMORY;
    found->sharedMemPerBlock = 49152;
    found->maxThreadsPerBlock = 1024;
    found->warpSize = 32;
    found->maxGridSize[0] = 0x7FFFFFFF;
    found->maxGridSize[1] = found->maxGridSize[2] = 65535;
    return cudaSuccess;
}

PUBLIC cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
    snprintf(text, length, "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}

PUBLIC cudaError_t cudaDeviceSynchronize() {
    if (strict_captures) return failed(cudaErrorStreamCaptureUnsupported);
    run_all(the_device);
    return cudaSuccess;
}

PUBLIC cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
    *can = 1;
    return cudaSuccess;
}

PUBLIC cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }

PUBLIC const char* cudaGetErrorName(cudaError_t error) {
    static thread_local char text[32];
    snprintf(text, sizeof text, "cudaError %d", error);
    return text;
}

PUBLIC const char* cudaGetErrorString(cudaError_t) { return "of the emulated device"; }

PUBLIC cudaError_t cudaGetLastError() {
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

// --- memory ---------------------------------------------------------------------------------------

static const Block* block_around(const std::map<const char*, Block>& in, const void* place) {
    auto found = in.upper_bound((const char*)place);
    if (found == in.begin()) return nullptr;
    --found;
    return (const char*)place < found->first + found->second.bytes ? &found->second : nullptr;
}

// Where the block lies that a place is in, of the device's memory or of what it may read of the host's.
PUBLIC bool emulated_block(const void* place, const char** begin, const char** end) {
    ONE_AT_A_TIME;
    for (const auto* in : {&blocks, &pinned}) {
        auto found = in->upper_bound((const char*)place);
        if (found == in->begin()) continue;
        --found;
        if ((const char*)place >= found->first + found->second.bytes) continue;
        *begin = found->first;
        *end = *begin + found->second.bytes;
        return true;
    }
    return false;
}

// Die if bytes are not the device's, all of one block; what is done with them, in words.
PUBLIC void emulated_check(const char* what, const void* place, long bytes) {
    const char *begin, *end;
    if (bytes <= 0) return;
    if (!emulated_block(place, &begin, &end)) die("%s %ld bytes that are no device's", what, bytes);
    if ((const char*)place + bytes > end) die("%s %ld bytes, beyond the end of a block", what, bytes);
}

PUBLIC cudaError_t cudaMalloc(void** made, size_t bytes) {
    ONE_AT_A_TIME;
    if (strict_captures) return failed(cudaErrorStreamCaptureUnsupported);
    if (bytes > MEMORY / 2) return failed(cudaErrorMemoryAllocation);
    const size_t whole = (bytes + MARGIN - 1) / MARGIN * MARGIN + 2 * MARGIN;
    char* place = (char*)aligned_alloc(MARGIN, whole);
    memset(place, PATTERN, whole);
    memset(place + MARGIN, 0xFF, bytes);  // NaN in every floating dtype
    *made = place + MARGIN;
    blocks[place + MARGIN] = {bytes, the_device};
    return cudaSuccess;
}

PUBLIC cudaError_t cudaFree(void* place) {
    if (!place) return cudaSuccess;
    run_all();
    ONE_AT_A_TIME;
    auto found = blocks.find((const char*)place);
    if (found == blocks.end()) return failed(cudaErrorInvalidValue);
    const size_t bytes = found->second.bytes;
    for (size_t i = 0; i < MARGIN; ++i) {
        const unsigned char* block = (const unsigned char*)place;
        if (block[-1 - (long)i] != PATTERN) die("%s %ld bytes before a block", "written", i + 1);
        if (block[bytes + i] != PATTERN) die("%s %ld bytes behind a block", "written", i);
    }
    blocks.erase(found);
    free((char*)place - MARGIN);
    return cudaSuccess;
}

PUBLIC cudaError_t cudaHostAlloc(void** made, size_t bytes, unsigned) {
    ONE_AT_A_TIME;
    *made = aligned_alloc(MARGIN, (bytes + MARGIN) / MARGIN * MARGIN);
    pinned[(const char*)*made] = {bytes, the_device};
    return cudaSuccess;
}

PUBLIC cudaError_t cudaFreeHost(void* place) {
    run_all();
    ONE_AT_A_TIME;
    pinned.erase((const char*)place);
    free(place);
    return cudaSuccess;
}

PUBLIC cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    *free = MEMORY / 2;
    *total = MEMORY;
    return cudaSuccess;
}

PUBLIC cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* place) {
    ONE_AT_A_TIME;
    memset(found, 0, sizeof *found);
    const Block *there = block_around(blocks, place), *here = block_around(pinned, place);
    found->type = there ? cudaMemoryTypeDevice
        : here ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    found->device = there ? there->device : here ? here->device : -2;
    if (there || here) found->devicePointer = (void*)place;
    if (here) found->hostPointer = (void*)place;
    return cudaSuccess;
}

static void check_kind(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    if (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice)
        emulated_check("copied to", to, bytes);
    if (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice)
        emulated_check("copied from", from, bytes);
}

// Whose memory a place is in.
enum Owner { DEVICE, PINNED, PAGEABLE };

static Owner owner_of(const void* place) {
    ONE_AT_A_TIME;
    return block_around(blocks, place) ? DEVICE : block_around(pinned, place) ? PINNED : PAGEABLE;
}

// Copy in a stream. What the host may do away with, or read, when this returns is read here, or
// written: pageable memory always, and pinned memory where the caller says so.
static cudaError_t copy(
    void* to, const void* from, size_t bytes, cudaStream_t stream, bool waits_for_pinned) {
    const Owner source = owner_of(from), target = owner_of(to);
    if (source == PAGEABLE && target == DEVICE) {
        const auto staged = std::make_shared<std::vector<char>>((char*)from, (char*)from + bytes);
        return submit(stream, [=] { memmove(to, staged->data(), bytes); });
    }
    submit(stream, [=] { memmove(to, from, bytes); });
    const bool is_pinned = source == PINNED || target == PINNED;
    if (target == PAGEABLE || (source != DEVICE && target != DEVICE) ||
        (is_pinned && waits_for_pinned))
        run_all_of(stream_of(stream));
    return cudaSuccess;
}

PUBLIC cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    if (strict_captures) return failed(cudaErrorStreamCaptureImplicit);
    check_kind(to, from, bytes, kind);
    return copy(to, from, bytes, nullptr, true);
}

// A graph would read and write memory of the host that may not be there any more.
PUBLIC cudaError_t cudaMemcpyAsync(
    void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    check_kind(to, from, bytes, kind);
    if (!stream_of(stream)->captured) return copy(to, from, bytes, stream, false);
    if (owner_of(to) == PAGEABLE || owner_of(from) == PAGEABLE) {
        stream_of(stream)->is_invalid = true;
        return failed(cudaErrorStreamCaptureUnsupported);
    }
    return submit(stream, [=] { memmove(to, from, bytes); });
}

PUBLIC cudaError_t cudaMemcpyPeerAsync(
    void* to, int, const void* from, int, size_t bytes, cudaStream_t stream) {
    check_kind(to, from, bytes, cudaMemcpyDeviceToDevice);
    return submit(stream, [=] { memmove(to, from, bytes); });
}

PUBLIC cudaError_t cudaMemsetAsync(void* place, int value, size_t bytes, cudaStream_t stream) {
    emulated_check("filled", place, bytes);
    return submit(stream, [=] { memset(place, value, bytes); });
}

PUBLIC cudaError_t cudaMemset(void* place, int value, size_t bytes) {
    cudaMemsetAsync(place, value, bytes, nullptr);
    if (owner_of(place) != DEVICE) run_all_of(default_stream());
    return cudaSuccess;
}

// --- streams, events and graphs -------------------------------------------------------------------

PUBLIC cudaError_t cudaStreamCreateWithFlags(cudaStream_t* made, unsigned flags) {
    *made = (cudaStream_t)make_stream(false, flags).get();
    return cudaSuccess;
}

PUBLIC cudaError_t cudaStreamCreate(cudaStream_t* made) {
    return cudaStreamCreateWithFlags(made, 0);
}

PUBLIC cudaError_t cudaStreamCreateWithPriority(cudaStream_t* made, unsigned flags, int) {
    return cudaStreamCreateWithFlags(made, flags);
}

// What it was given is done all the same.
PUBLIC cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    ONE_AT_A_TIME;
    ((Stream*)stream)->is_destroyed = true;
    ((Stream*)stream)->changed.notify_all();
    return cudaSuccess;
}

PUBLIC cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
    *flags = stream_of(stream)->flags;
    return cudaSuccess;
}

// Nobody may wait for a stream that is captured.
static cudaError_t refused_by_capture(Stream* stream) {
    if (!stream->captured) return cudaSuccess;
    stream->is_invalid = true;
    return failed(cudaErrorStreamCaptureUnsupported);
}

PUBLIC cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    Stream* stream = stream_of(handle);
    if (const cudaError_t error = refused_by_capture(stream)) return error;
    run_all_of(stream);
    return cudaSuccess;
}

PUBLIC cudaError_t cudaStreamQuery(cudaStream_t handle) {
    Stream* stream = stream_of(handle);
    if (const cudaError_t error = refused_by_capture(stream)) return error;
    return ask(stream, stream->given);
}

PUBLIC cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
    Stream* stream = stream_of(handle);
    if (!stream->captured) wait_in(stream, ((Event*)event)->record);
    return cudaSuccess;
}

PUBLIC cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* state) {
    return submit(stream, [=] { function(state); }, true);
}

PUBLIC cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
    ONE_AT_A_TIME;
    Stream* stream = stream_of(handle);
    if (stream->is_default) return failed(cudaErrorStreamCaptureUnsupported);
    stream->captured.reset(new Graph);
    stream->is_invalid = false;
    stream->is_relaxed = mode == cudaStreamCaptureModeRelaxed;
    strict_captures += !stream->is_relaxed;
    return cudaSuccess;
}

PUBLIC cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* made) {
    ONE_AT_A_TIME;
    Stream* stream = stream_of(handle);
    *made = nullptr;
    if (!stream->captured) return failed(cudaErrorIllegalState);
    strict_captures -= !stream->is_relaxed;
    std::unique_ptr<Graph> graph = std::move(stream->captured);
    if (stream->is_invalid) return failed(cudaErrorStreamCaptureInvalidated);
    *made = (cudaGraph_t)graph.release();
    return cudaSuccess;
}

PUBLIC cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
    const Stream* stream = stream_of(handle);
    *status = !stream->captured ? cudaStreamCaptureStatusNone
        : stream->is_invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

PUBLIC cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
    *made = (cudaGraphExec_t)new Graph(*(Graph*)graph);
    return cudaSuccess;
}

PUBLIC cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }

PUBLIC cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream) {
    Graph* graph = (Graph*)handle;
    wait_in(stream_of(stream), graph->launched);
    for (const Work& work : graph->works) submit(stream, work);
    graph->launched = record_in(stream_of(stream));
    return cudaSuccess;
}

PUBLIC cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete (Graph*)graph;
    return cudaSuccess;
}

PUBLIC cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    delete (Graph*)graph;
    return cudaSuccess;
}

PUBLIC cudaError_t cudaEventCreateWithFlags(cudaEvent_t* made, unsigned) {
    *made = (cudaEvent_t)new Event{the_device};
    return cudaSuccess;
}

PUBLIC cudaError_t cudaEventCreate(cudaEvent_t* made) { return cudaEventCreateWithFlags(made, 0); }

PUBLIC cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete (Event*)event;
    return cudaSuccess;
}

PUBLIC cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
    Event* event = (Event*)handle;
    Stream* stream = stream_of(stream_handle);
    if (stream->device != event->device) return failed(cudaErrorInvalidResourceHandle);
    event->record = stream->captured ? nullptr : record_in(stream);
    return cudaSuccess;
}

PUBLIC cudaError_t cudaEventQuery(cudaEvent_t event) {
    const auto record = ((Event*)event)->record;
    return !record || record->is_reached() ? cudaSuccess : ask(record->stream.get(), record->place);
}

PUBLIC cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const auto record = ((Event*)event)->record;
    if (record) record->reach();
    return cudaSuccess;
}

PUBLIC cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
    const auto begun = ((Event*)from)->record, ended = ((Event*)to)->record;
    if (!begun || !ended) return failed(cudaErrorInvalidResourceHandle);
    if (!begun->is_reached() || !ended->is_reached()) return cudaErrorNotReady;
    *milliseconds = (float)(ended->milliseconds - begun->milliseconds);
    return cudaSuccess;
}

// --- kernels --------------------------------------------------------------------------------------

struct Place { unsigned x, y, z; };
struct Start {
    Place grid, block;
    unsigned shared;
};
struct Kernel {
    int (*run)(const Start*, void**);
    const size_t* sizes;  // of its parameters; 0 behind the last
    const char* (*fault)();
    std::string name;
};

// What stands for a module is the path of a library that has its kernels, each with two names.
PUBLIC CUresult cuModuleLoadData(CUmodule* made, const void* image) {
    void* library = dlopen((const char*)image, RTLD_NOW | RTLD_LOCAL);
    if (!library) die("%s", dlerror(), 0);
    *made = (CUmodule)library;
    return CUDA_SUCCESS;
}

PUBLIC CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }

PUBLIC CUresult cuModuleGetFunction(CUfunction* made, CUmodule module, const char* name) {
    const auto found = [=](const char* ending) {
        return dlsym((void*)module, (std::string(name) + ending).c_str());
    };
    if (!found("__run")) return CUDA_ERROR_NOT_FOUND;
    Kernel* kernel = new Kernel;
    kernel->run = (decltype(kernel->run))found("__run");
    kernel->sizes = ((const size_t* (*)())found("__sizes"))();
    kernel->fault = (decltype(kernel->fault))dlsym((void*)module, "shim_fault");
    kernel->name = name;
    *made = (CUfunction)kernel;
    return CUDA_SUCCESS;
}

PUBLIC CUresult cuLaunchKernel(
    CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
    unsigned bz, unsigned shared, CUstream stream, void** given, void**) {
    const Kernel* kernel = (const Kernel*)function;
    const bool fits = gx && gy && gz && bx && by && bz && gx <= 0x7FFFFFFFu && gy <= 65535 &&
        gz <= 65535 && (size_t)bx * by * bz <= 1024 && shared <= 232448;
    if (!fits) return CUDA_ERROR_INVALID_VALUE;
    if (stream_of(stream)->device != the_device) return CUDA_ERROR_INVALID_HANDLE;
    if (order == NEVER) return CUDA_SUCCESS;
    // Parameters go by value: a graph starts the kernel with what they were.
    auto own = std::make_shared<std::vector<std::vector<char>>>();
    size_t bytes = 0;
    for (int i = 0; kernel->sizes[i]; ++i) {
        const char* from = (const char*)given[i];
        own->emplace_back(from, from + kernel->sizes[i]);
        bytes += kernel->sizes[i];
    }
    if (bytes > PARAMETERS) die("%s: parameters of %ld bytes", kernel->name.c_str(), bytes);
    const Start start = {{gx, gy, gz}, {bx, by, bz}, shared};
    submit(stream, [=] {
        ONE_AT_A_TIME;  // a kernel's shared memory is there but once
        std::vector<void*> places;
        for (auto& each : *own) places.push_back(each.data());
        if (int stuck = kernel->run(&start, places.data()))
            die("%s: %ld threads wait for ever", kernel->name.c_str(), stuck);
        if (const char* fault = kernel->fault())
            die("%s", (kernel->name + ": " + fault).c_str(), 0);
    });
    return CUDA_SUCCESS;
}

PUBLIC CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
    *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
    return CUDA_SUCCESS;
}

PUBLIC CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }

PUBLIC CUresult cuCtxGetCurrent(CUcontext* context) {
    *context = (CUcontext)(size_t)(the_device + 1);
    return CUDA_SUCCESS;
}

PUBLIC CUresult cuCtxSetCurrent(CUcontext context) {
    if (context) the_device = (int)(size_t)context - 1;
    return CUDA_SUCCESS;
}

PUBLIC CUresult cuCtxGetDevice(CUdevice* device) {
    *device = the_device;
    return CUDA_SUCCESS;
}

PUBLIC CUresult cuGetErrorName(CUresult, const char** name) {
    *name = "CUDA_ERROR";
    return CUDA_SUCCESS;
}

PUBLIC CUresult cuGetErrorString(CUresult, const char** text) {
    *text = "of the emulated device";
    return CUDA_SUCCESS;
}
