// The words of CUDA's headers for a compiler that does not know them; its own wheel lacks this file.
#pragma once
#define __host__
#define __device__
#define __global__
#define __shared__ static
#define __constant__ static
#define __managed__ static
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define __builtin_align__(n) __attribute__((aligned(n)))
#define __align__(n) __attribute__((aligned(n)))
#define __specialization_static static
#define __no_return__ __attribute__((noreturn))
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define __cluster_dims__(...)
#define __location__(a)
#define __restrict__
#define __inline_hint__
#define CUDARTAPI
#define CUDARTAPI_CDECL
