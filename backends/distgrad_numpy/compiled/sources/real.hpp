// The numbers of a source that is compiled once for each dtype: float, or what REAL says.
#pragma once

#include "vector.hpp"

#ifndef REAL
#define REAL float
#endif

namespace distgrad {

typedef REAL real;

// The whole numbers as wide as these, and the largest finite one.
template <class T>
struct Beside;
template <>
struct Beside<float> {
    typedef int whole;
    static constexpr float LARGEST = __FLT_MAX__;
};
template <>
struct Beside<double> {
    typedef index_t whole;
    static constexpr double LARGEST = __DBL_MAX__;
};

typedef Beside<real>::whole whole_t;
constexpr real LARGEST = Beside<real>::LARGEST;

}  // namespace distgrad
