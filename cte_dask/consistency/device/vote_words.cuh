// The votes of up to 64 models on each voxel, as one word: bit m is model m's.
// See cte_dask/consistency/vote_patterns.py. Everything but the kernel is plain C++ too, which a test
// runs on the host.

#ifndef __CUDACC__
#define CTE_DEVICE static inline
#else
#define CTE_DEVICE static __device__ __forceinline__
#endif

namespace cte {

typedef unsigned long long word_t;
typedef long long place_t;

constexpr int WORD_BITS = 64;

// masks: bits of each model's foreground, (model, word) with `words` words a model.
CTE_DEVICE word_t vote_word(const word_t *masks, int models, place_t words, place_t word, int bit) {
  word_t votes = 0;
  for (int model = 0; model < models; ++model)
    votes |= ((masks[model * words + word] >> bit) & 1ull) << model;
  return votes;
}

}  // namespace cte

#ifdef __CUDACC__
// One thread a voxel of every `step`-th word; out holds 64 votes for each of them.
extern "C" __global__ void cte_vote_words(const cte::word_t *masks, int models, cte::place_t words,
                                          cte::place_t step, cte::place_t voxels,
                                          cte::word_t *out) {
  const cte::place_t first = (cte::place_t)blockIdx.x * blockDim.x + threadIdx.x;
  const cte::place_t stride = (cte::place_t)gridDim.x * blockDim.x;
  for (cte::place_t v = first; v < voxels; v += stride)
    out[v] = cte::vote_word(masks, models, words, v / cte::WORD_BITS * step,
                            (int)(v % cte::WORD_BITS));
}
#endif
