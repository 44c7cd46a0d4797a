// The functions of cuFFT that CuPy calls; Python computes the transforms.
#include <map>

#include "libraries.h"

// As `emulated.py` reads it.
struct Plan {
    int rank, lengths[3], given[3], given_step, given_apart, made[3], made_step, made_apart, type,
        batch;
    bool is_dense;  // whether arrays lie as their lengths say
};

static std::map<int, std::pair<Plan, Handle>> plans;

PUBLIC int cufftCreate(int* plan) {
    static int count = 0;
    plans[*plan = ++count] = {};
    return 0;
}

PUBLIC int cufftDestroy(int plan) {
    plans.erase(plan);
    return 0;
}

PUBLIC int cufftGetVersion(int* version) {
    *version = 11400;
    return 0;
}

PUBLIC int cufftSetAutoAllocation(int, int) { return 0; }

PUBLIC int cufftSetWorkArea(int, void*) { return 0; }

PUBLIC int cufftSetStream(int plan, void* stream) {
    plans[plan].second.stream = stream;
    return 0;
}

PUBLIC int cufftMakePlan1d(int plan, int length, int type, int batch, size_t* room) {
    Plan& own = plans[plan].first;
    own = {1, {length}};
    own.type = type;
    own.batch = batch;
    own.is_dense = true;
    *room = 16;
    return 0;
}

PUBLIC int cufftMakePlanMany(
    int plan, int rank, int* lengths, int* given, int given_step, int given_apart, int* made,
    int made_step, int made_apart, int type, int batch, size_t* room) {
    static const int INVALID_SIZE = 8;
    Plan own = {rank};
    for (int i = 0; i < rank; ++i) {
        if (lengths[i] < 1) return INVALID_SIZE;
        own.lengths[i] = lengths[i];
        own.given[i] = given ? given[i] : 0;
        own.made[i] = made ? made[i] : 0;
    }
    own.given_step = given_step;
    own.given_apart = given_apart;
    own.made_step = made_step;
    own.made_apart = made_apart;
    own.type = type;
    own.batch = batch;
    own.is_dense = !given || !made;
    plans[plan].first = own;
    *room = 16;
    return 0;
}

static int transform(int plan, void* given, void* made, int direction) {
    const Plan own = plans[plan].first;
    submit(&plans[plan].second, [=] {
        ((void (*)(const Plan*, void*, void*, int))emulated_known("transform"))(
            &own, given, made, direction);
    });
    return 0;
}

PUBLIC int cufftExecC2C(int plan, void* a, void* b, int way) { return transform(plan, a, b, way); }
PUBLIC int cufftExecZ2Z(int plan, void* a, void* b, int way) { return transform(plan, a, b, way); }
PUBLIC int cufftExecR2C(int plan, void* a, void* b) { return transform(plan, a, b, -1); }
PUBLIC int cufftExecD2Z(int plan, void* a, void* b) { return transform(plan, a, b, -1); }
PUBLIC int cufftExecC2R(int plan, void* a, void* b) { return transform(plan, a, b, 1); }
PUBLIC int cufftExecZ2D(int plan, void* a, void* b) { return transform(plan, a, b, 1); }
