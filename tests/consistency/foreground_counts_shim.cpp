// Runs the threads of foreground_counts.cuh one after another, in the order of its two kernels.
#include "foreground_counts.cuh"

template <typename T>
static void run(const T *p, const cte::index_t *p_strides, const T *q,
                const cte::index_t *q_strides, const cte::index_t *boxes, cte::index_t tiles,
                double threshold, double *rows) {
  for (cte::index_t tile = 0; tile < tiles; ++tile) {
    const cte::index_t *box = boxes + 6 * tile;
    cte::Counts partial[cte::MAX_BLOCKS];
    for (int block = 0; block < cte::blocks_of(box); ++block) {
      cte::Counts shared[cte::THREADS];
      for (int t = 0; t < cte::THREADS; ++t)
        shared[t] = cte::count_thread(p + tile * p_strides[0], p_strides, q + tile * q_strides[0],
                                      q_strides, box, threshold, block, t);
      for (int step = cte::THREADS / 2; step > 0; step /= 2)
        for (int t = 0; t < cte::THREADS; ++t) cte::fold(shared, t, step);
      partial[block] = shared[0];
    }
    cte::finish(partial, box, rows + cte::STATISTICS * tile);
  }
}

extern "C" {
void count_float32(const float *p, const cte::index_t *ps, const float *q,
                       const cte::index_t *qs, const cte::index_t *boxes, cte::index_t tiles,
                       double threshold, double *rows) {
  run(p, ps, q, qs, boxes, tiles, threshold, rows);
}
void count_float64(const double *p, const cte::index_t *ps, const double *q,
                       const cte::index_t *qs, const cte::index_t *boxes, cte::index_t tiles,
                       double threshold, double *rows) {
  run(p, ps, q, qs, boxes, tiles, threshold, rows);
}
int threads() { return cte::THREADS; }
int max_blocks() { return cte::MAX_BLOCKS; }
int rows_per_block() { return cte::WARPS * cte::ROWS_PER_WARP; }
int counts_bytes() { return sizeof(cte::Counts); }
}
