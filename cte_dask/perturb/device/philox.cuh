// Normal fields, see cte_dask/perturb/philox.py: the same formulas, operation by operation.
//
// Compiled as CUDA with fused multiply-add off, or as plain C++ (with contraction off) where a test
// runs it on the host; either gives the bits that NumPy gives.

#ifdef __CUDACC__
#define CTE_FUNCTION static __device__ __forceinline__
#else
#include <cmath>
#include <cstring>
#define CTE_FUNCTION static inline
#endif

namespace cte {

typedef unsigned int word;
typedef unsigned long long wide;

CTE_FUNCTION int bits_of(float value) {
#ifdef __CUDACC__
  return __float_as_int(value);
#else
  int bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

CTE_FUNCTION float float_of(int bits) {
#ifdef __CUDACC__
  return __int_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

// Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405); the counter becomes the output.
CTE_FUNCTION void philox(word c[4], word k0, word k1) {
  for (int round = 0; round < 10; ++round) {
    const wide p0 = (wide)c[0] * 0xD2511F53u;
    const wide p1 = (wide)c[2] * 0xCD9E8D57u;
    c[0] = (word)(p1 >> 32) ^ c[1] ^ k0;
    c[2] = (word)(p0 >> 32) ^ c[3] ^ k1;
    c[1] = (word)p1;
    c[3] = (word)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// sqrt(-2 ln u), u uniform in (0, 1]
CTE_FUNCTION float radius(word w) {
  const float u = ((float)(int)(w >> 1) + 0.5f) * (float)(1.0 / 2147483648.0);
  const int shifted = bits_of(u) + (0x3F800000 - 0x3F3504F3);
  const float exponent = (float)((shifted >> 23) - 127);
  const float m = float_of((shifted & 0x007FFFFF) + 0x3F3504F3);
  const float s = (m - 1.0f) / (m + 1.0f);
  const float q = s * s;
  float p = (float)(1.0 / 9) * q + (float)(1.0 / 7);
  p = p * q + (float)(1.0 / 5);
  p = p * q + (float)(1.0 / 3);
  p = p * q + 1.0f;
  return sqrtf(-2.0f * (exponent * (float)0.6931471805599453 + (s + s) * p));
}

CTE_FUNCTION void cos_sin(word w, float &cosine, float &sine) {
  const word quarter = (w + 0x20000000u) >> 30;
  const float t = (float)(int)(w - (quarter << 30)) * (float)(6.283185307179586 / 4294967296.0);
  const float q = t * t;
  float s = (float)(1.0 / 362880) * q + (float)(-1.0 / 5040);
  s = s * q + (float)(1.0 / 120);
  s = s * q + (float)(-1.0 / 6);
  s = (s * q + 1.0f) * t;
  float c = (float)(-1.0 / 3628800) * q + (float)(1.0 / 40320);
  c = c * q + (float)(-1.0 / 720);
  c = c * q + (float)(1.0 / 24);
  c = c * q + -0.5f;
  c = c * q + 1.0f;
  cosine = quarter & 1 ? s : c;
  sine = quarter & 1 ? c : s;
  if ((quarter + 1) & 2) cosine = -cosine;
  if (quarter & 2) sine = -sine;
}

struct Field {
  word k0, k1;
  int z, y, x;              // coordinate of the first voxel
  long long nz, ny, nx;     // extent
};

// Number of runs of four voxels along x that the field touches.
CTE_FUNCTION long long runs_of(const Field &f) { return ((f.x & 3) + f.nx + 3) / 4; }

// Write the normals of one run; `index` counts runs in C order over (z, y, run).
CTE_FUNCTION void fill_run(const Field &f, long long index, float *out) {
  const long long runs = runs_of(f);
  const long long row = index / runs, run = index % runs;
  const word x = (word)(f.x >> 2) + (word)run;
  word c[4] = {x, (word)f.y + (word)(row % f.ny), (word)f.z + (word)(row / f.ny), 0u};
  philox(c, f.k0, f.k1);
  float normal[4];
  for (int pair = 0; pair < 4; pair += 2) {
    const float r = radius(c[pair]);
    float cosine, sine;
    cos_sin(c[pair + 1], cosine, sine);
    normal[pair] = r * cosine;
    normal[pair + 1] = r * sine;
  }
  for (int i = 0; i < 4; ++i) {
    const long long at = 4 * run + i - (f.x & 3);
    if (at >= 0 && at < f.nx) out[row * f.nx + at] = normal[i];
  }
}

}  // namespace cte

#ifdef __CUDACC__
extern "C" __global__ void cte_normal_field(unsigned int k0, unsigned int k1, int z, int y, int x,
                                            long long nz, long long ny, long long nx, float *out) {
  const cte::Field field = {k0, k1, z, y, x, nz, ny, nx};
  const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (index < nz * ny * cte::runs_of(field)) cte::fill_run(field, index, out);
}
#endif
