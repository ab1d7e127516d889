// One layer, W φ(û) + b, some points at a time, so that φ(û) never leaves the cache. The loops
// `values` and `gradient` of a composition stand in front of this file; both take numbers of
// entries and pointers in `s`, as Python counts them out (kernels.py, `Fields`).

typedef void (*Gemm)(const char *, const char *, const int *, const int *, const int *, const T *,
                     const T *, const int *, const T *, const int *, const T *, T *, const int *);

// c = op(a) op(b) + beta c of matrices in rows: in columns, as BLAS has them, the transposed one.
static void multiply(const int64_t *s, const char *op_a, const char *op_b, int m, int n, int k,
                     const T *a, int lda, const T *b, int ldb, T beta, T *c)
{
  const T one = 1;
  ((Gemm)s[GEMM])(op_b, op_a, &n, &m, &k, &one, b, &ldb, a, &lda, &beta, c, &n);
}

#define POINTS(start) (s[TOTAL] - (start) < s[PART] ? s[TOTAL] - (start) : s[PART])
#define WIDTH(n) (s[INNER_WIDTH] ? s[INNER_WIDTH] : (n) * s[INNER])

static void forward_part(const int64_t *s, int64_t thread, int64_t start)
{
  const int64_t n = POINTS(start), entries = n * s[INNER], width = WIDTH(n);
  T *to = (T *)s[RESULT];
  if (!s[WEIGHT]) {
    values(s, start * s[INNER], entries / width, width, to + start * s[INNER], s[RESULT_ROW]);
    return;
  }
  const int in = s[IN], out = s[OUT];
  const int64_t rows = entries / in;
  T *scratch = (T *)s[SCRATCH] + thread * s[SCRATCH_SIZE];
  values(s, start * s[INNER], entries / width, width, scratch, entries);
  to += start * (s[INNER] / in) * out;
  const T *bias = (const T *)s[BIAS];
  for (int64_t k = 0; bias && k < rows; k++)
    for (int64_t i = 0; i < out; i++) to[k * out + i] = bias[i];
  for (int64_t r = 0; r < ROWS; r++)
    multiply(s, "N", "T", rows, out, in, scratch + r * entries, in, (const T *)s[WEIGHT], in,
             bias && r == 0, to + r * s[RESULT_ROW]);
}

static void reverse_part(const int64_t *s, int64_t thread, int64_t start)
{
  const int64_t n = POINTS(start), entries = n * s[INNER], width = WIDTH(n);
  const T *given = (const T *)s[COTANGENT];
  if (!s[WEIGHT]) {
    gradient(s, thread, start * s[INNER], entries / width, width, given + start * s[INNER],
             s[COTANGENT_ROW]);
    return;
  }
  const int in = s[IN], out = s[OUT];
  const int64_t rows = entries / in, size = (int64_t)in * out;
  T *scratch = (T *)s[SCRATCH] + thread * s[SCRATCH_SIZE];
  T *by_weight = s[RESULT] ? (T *)s[RESULT] + thread * size : 0;
  T *one = scratch + s[SCRATCH_SIZE] - size;
  given += start * (s[INNER] / in) * out;
  if (by_weight) {
    values(s, start * s[INNER], entries / width, width, scratch, entries);
    for (int64_t r = 0; r < ROWS; r++) {  // BLAS would add each term to the whole sum
      multiply(s, "T", "N", out, in, rows, given + r * s[COTANGENT_ROW], out,
               scratch + r * entries, in, 0, one);
      for (int64_t i = 0; i < size; i++) by_weight[i] += one[i];
    }
  }
  for (int64_t r = 0; r < ROWS; r++)
    multiply(s, "N", "N", rows, in, out, given + r * s[COTANGENT_ROW], out,
             (const T *)s[WEIGHT], in, 0, scratch + r * entries);
  gradient(s, thread, start * s[INNER], entries / width, width, scratch, entries);
}

// On one thread no region is opened: BLAS would open another inside of it, and start threads anew.
#define FOR_ALL_PARTS(function)                                                 \
  if (s[THREADS] == 1)                                                          \
    for (int64_t k = 0; k < s[TOTAL]; k += s[PART]) function(s, 0, k);          \
  else {                                                                        \
    _Pragma("omp parallel for num_threads(s[THREADS]) schedule(static)")        \
    for (int64_t k = 0; k < s[TOTAL]; k += s[PART]) function(s, THREAD, k);     \
  }

void forward(const int64_t *s) { FOR_ALL_PARTS(forward_part) }

void reverse(const int64_t *s) { FOR_ALL_PARTS(reverse_part) }
