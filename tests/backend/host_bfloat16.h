// Numbers of bfloat16 on a host, for sources that know CuPy's class of this name.
#pragma once
#include <cstdint>
#include <cstring>

// The upper half of a float, to the nearest, of two equally near ones the even one.
struct bfloat16 {
    unsigned short bits;
    bfloat16() = default;
    bfloat16(float x) {
        uint32_t whole;
        std::memcpy(&whole, &x, 4);
        bits = x != x ? 0x7fc0 : (whole + 0x7fff + (whole >> 16 & 1)) >> 16;
    }
    operator float() const {
        const uint32_t whole = (uint32_t)bits << 16;
        float x;
        std::memcpy(&x, &whole, 4);
        return x;
    }
};
