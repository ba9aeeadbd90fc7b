// Counts behind NHD and EI, see cte_dask/consistency/binary.py: each map is read once.
//
// Two stages: the thread blocks of a tile each leave one partial count, then one thread a tile adds
// them in order. No atomics, and the division of labour follows from the tile's shape alone, so a
// tile gives the same bits in any batch and on any device. Everything but the two kernels is plain
// C++ too, which a test runs on the host.

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define CTE_FUNCTION static __device__ __forceinline__
#else
#include <cmath>
using std::sqrt;
#define CTE_FUNCTION static inline
#endif

namespace cte {

typedef long long index_t;

constexpr int WARP = 32;
constexpr int THREADS = 256;
constexpr int WARPS = THREADS / WARP;
constexpr int ROWS_PER_WARP = 4;
constexpr int MAX_BLOCKS = 64;
constexpr int STATISTICS = 6;

// A map's values as they are compared: widening is exact, so the comparison is that of its dtype.
CTE_FUNCTION float widen(float v) { return v; }
CTE_FUNCTION double widen(double v) { return v; }
#ifdef __CUDACC__
CTE_FUNCTION float widen(__half v) { return __half2float(v); }
CTE_FUNCTION float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
#endif

struct Counts {
  double sum_ei;
  unsigned int n_union, n_disagree, n_reference, n_nan;
};

CTE_FUNCTION Counts zero() { return Counts{0.0, 0u, 0u, 0u, 0u}; }

CTE_FUNCTION void add(Counts &a, const Counts &b) {
  a.sum_ei += b.sum_ei;
  a.n_union += b.n_union;
  a.n_disagree += b.n_disagree;
  a.n_reference += b.n_reference;
  a.n_nan += b.n_nan;
}

template <typename T>
CTE_FUNCTION void compare(Counts &c, T reference, T perturbed, double threshold) {
  const auto p = widen(reference), q = widen(perturbed);
  const bool in_a = p > threshold, in_b = q > threshold;
  c.n_union += in_a || in_b;
  c.n_disagree += in_a != in_b;
  c.n_reference += in_a;
  c.n_nan += p != p || q != q;
  if (in_a && in_b) c.sum_ei += (double)sqrt(p * q);  // the root in the precision of the maps
}

// Box z0, y0, x0, z1, y1, x1 of a tile's core within its frame.
CTE_FUNCTION index_t rows_of(const index_t *box) { return (box[3] - box[0]) * (box[4] - box[1]); }

// Thread blocks that share a tile, a function of its shape.
CTE_FUNCTION int blocks_of(const index_t *box) {
  const index_t needed = (rows_of(box) + WARPS * ROWS_PER_WARP - 1) / (WARPS * ROWS_PER_WARP);
  return needed < MAX_BLOCKS ? (int)needed : MAX_BLOCKS;
}

// What one thread counts: a warp takes whole rows, its lanes neighbouring voxels.
// `strides` are the elements between neighbours along tile, z, y, x.
template <typename T>
CTE_FUNCTION Counts count_thread(const T *p, const index_t *p_strides, const T *q,
                                 const index_t *q_strides, const index_t *box, double threshold,
                                 int block, int thread) {
  Counts counts = zero();
  const index_t rows = rows_of(box), ny = box[4] - box[1];
  const index_t step = (index_t)blocks_of(box) * WARPS;
  for (index_t row = (index_t)block * WARPS + thread / WARP; row < rows; row += step) {
    const index_t z = box[0] + row / ny, y = box[1] + row % ny;
    const T *p_row = p + z * p_strides[1] + y * p_strides[2];
    const T *q_row = q + z * q_strides[1] + y * q_strides[2];
    for (index_t x = box[2] + thread % WARP; x < box[5]; x += WARP)
      compare(counts, p_row[x * p_strides[3]], q_row[x * q_strides[3]], threshold);
  }
  return counts;
}

// One level of the tree over a thread block: called with step = THREADS / 2, ..., 2, 1.
CTE_FUNCTION void fold(Counts *shared, int thread, int step) {
  if (thread < step) add(shared[thread], shared[thread + step]);
}

// One row of the result; counts beyond 2**32 voxels a thread block do not occur (tiles are capped).
CTE_FUNCTION void finish(const Counts *partial, const index_t *box, double *row) {
  double sums[5] = {0.0, 0.0, 0.0, 0.0, 0.0};
  for (int block = 0; block < blocks_of(box); ++block) {
    const Counts &c = partial[block];
    const double parts[5] = {(double)c.n_union, (double)c.n_disagree, c.sum_ei,
                             (double)c.n_reference, (double)c.n_nan};
    for (int i = 0; i < 5; ++i) sums[i] += parts[i];
  }
  for (int i = 0; i < 4; ++i) row[i] = sums[i];
  row[4] = (double)(rows_of(box) * (box[5] - box[2]));
  row[5] = sums[4];
}

#ifdef __CUDACC__
template <typename T>
static __device__ void count_block(const T *p, const index_t *p_strides, const T *q,
                                   const index_t *q_strides, const index_t *boxes,
                                   double threshold, Counts *partial) {
  __shared__ Counts shared[THREADS];
  const index_t tile = blockIdx.x;
  const index_t *box = boxes + 6 * tile;
  if ((int)blockIdx.y >= blocks_of(box)) return;
  shared[threadIdx.x] = count_thread(p + tile * p_strides[0], p_strides, q + tile * q_strides[0],
                                     q_strides, box, threshold, blockIdx.y, threadIdx.x);
  for (int step = THREADS / 2; step > 0; step /= 2) {
    __syncthreads();
    fold(shared, threadIdx.x, step);
  }
  if (threadIdx.x == 0) partial[tile * MAX_BLOCKS + blockIdx.y] = shared[0];
}
#endif

}  // namespace cte

#ifdef __CUDACC__
#define CTE_COUNT(name, T)                                                                        \
  extern "C" __global__ void __launch_bounds__(cte::THREADS) cte_count_##name(                    \
      const T *p, const cte::index_t *p_strides, const T *q, const cte::index_t *q_strides,       \
      const cte::index_t *boxes, double threshold, cte::Counts *partial) {                        \
    cte::count_block(p, p_strides, q, q_strides, boxes, threshold, partial);                      \
  }

CTE_COUNT(float16, __half)
CTE_COUNT(bfloat16, __nv_bfloat16)
CTE_COUNT(float32, float)
CTE_COUNT(float64, double)

extern "C" __global__ void cte_finish(const cte::Counts *partial, const cte::index_t *boxes,
                                      cte::index_t tiles, double *rows) {
  const cte::index_t tile = (cte::index_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (tile < tiles)
    cte::finish(partial + tile * cte::MAX_BLOCKS, boxes + 6 * tile, rows + cte::STATISTICS * tile);
}
#endif
