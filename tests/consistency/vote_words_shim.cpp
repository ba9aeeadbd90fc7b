// Runs the threads of vote_words.cuh one after another.
#include "vote_words.cuh"

extern "C" void vote_words(const cte::word_t *masks, int models, cte::place_t words,
                           cte::place_t step, cte::place_t voxels, cte::word_t *out) {
  for (cte::place_t v = 0; v < voxels; ++v)
    out[v] = cte::vote_word(masks, models, words, v / cte::WORD_BITS * step,
                            (int)(v % cte::WORD_BITS));
}
extern "C" int word_bits() { return cte::WORD_BITS; }
