// Runs the threads of philox.cuh one after another.
#include "philox.cuh"

extern "C" {
void philox(unsigned int *counter, unsigned int k0, unsigned int k1) {
  cte::philox(counter, k0, k1);
}
void normal_field(unsigned int k0, unsigned int k1, int z, int y, int x, long long nz,
                  long long ny, long long nx, float *out) {
  const cte::Field field = {k0, k1, z, y, x, nz, ny, nx};
  for (long long i = 0; i < nz * ny * cte::runs_of(field); ++i) cte::fill_run(field, i, out);
}
}
