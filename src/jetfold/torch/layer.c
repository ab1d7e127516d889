// Layers W φ(û) + b, one after the other, some points at a time: φ(û) never leaves the cache, and
// what one layer makes is still there for the next. The loops `values` and `gradient` of a
// composition stand in front of this file. Both files take numbers of entries and pointers in `s`,
// as Python counts them out (chains.py); what they mean stands at `FIELDS` (loops.py).

typedef void (*Gemm)(const char *, const char *, const int *, const int *, const int *, const T *,
                     const T *, const int *, const T *, const int *, const T *, T *, const int *);

// Of gemm.c, which are 0 where it is not used: then matrices are multiplied by BLAS.
typedef void (*Fill)(const T *, int64_t, int64_t, int64_t, T *);
typedef void (*Times)(int64_t, int64_t, int64_t, const T *, int64_t, int64_t, const T *, const T *,
                      int64_t, T *);
#define FILL_PANELS ((Fill)s[FILL])
#define TIMES_PANELS ((Times)s[TIMES])

// c = op(a) op(b) + beta c of matrices in rows: in columns, as BLAS has them, the transposed one.
static void multiply(const int64_t *s, const char *op_a, const char *op_b, int m, int n, int k,
                     const T *a, int lda, const T *b, int ldb, T beta, T *c)
{
  const T one = 1;
  ((Gemm)s[GEMM])(op_b, op_a, &n, &m, &k, &one, b, &ldb, a, &lda, &beta, c, &n);
}

// Sums in type T have so many terms, which are added in double precision then.
enum { FEW = 64 };

// sums += the rows of x.
static void add_rows(const T *x, int64_t rows, int64_t width, T *few, double *sums)
{
  for (int64_t k = 0; k < rows; k += FEW) {
    const int64_t end = k + FEW < rows ? k + FEW : rows;
    for (int64_t i = 0; i < width; i++) few[i] = x[k * width + i];
    for (int64_t p = k + 1; p < end; p++)
      for (int64_t i = 0; i < width; i++) few[i] += x[p * width + i];
    for (int64_t i = 0; i < width; i++) sums[i] += few[i];
  }
}

#define POINTS(start) (s[TOTAL] - (start) < s[PART] ? s[TOTAL] - (start) : s[PART])
#define WIDTH(n) (s[INNER_WIDTH] ? s[INNER_WIDTH] : (n) * s[INNER])
#define ROOM_OF(thread) ((T *)s[ROOM] + (thread) * s[ROOM_SIZE])
#define SUMS_OF(thread) ((double *)s[SUMS] + (thread) * s[SUMS_SIZE])
// The gradient by the weight that a thread adds to: the first one to that which is wanted.
#define BY_WEIGHT(thread) \
  ((thread) ? (T *)s[OTHERS] + ((thread) - 1) * s[IN] * s[OUT] : (T *)s[OF_WEIGHT])

void forward_part(const int64_t *s, int64_t thread, int64_t start)
{
  const int64_t n = POINTS(start), entries = n * s[INNER], width = WIDTH(n);
  T *to = (T *)s[RESULT];
  if (!s[WEIGHT]) {
    values(s, start * s[INNER], entries / width, width, to + start * s[INNER], s[RESULT_ROW]);
    return;
  }
  const int in = s[IN], out = s[OUT];
  const int64_t rows = entries / in;
  T *room = ROOM_OF(thread);
  values(s, start * s[INNER], entries / width, width, room, entries);
  to += start * (s[INNER] / in) * out;
  const T *bias = (const T *)s[BIAS], *panels = (const T *)s[PANELS];
  if (panels) {
    for (int64_t r = 0; r < ROWS; r++)
      TIMES_PANELS(rows, out, in, room + r * entries, in, 1, panels, r ? 0 : bias, 0,
                   to + r * s[RESULT_ROW]);
    return;
  }
  for (int64_t k = 0; bias && k < rows; k++)
    for (int64_t i = 0; i < out; i++) to[k * out + i] = bias[i];
  for (int64_t r = 0; r < ROWS; r++)
    multiply(s, "N", "T", rows, out, in, room + r * entries, in, (const T *)s[WEIGHT], in,
             bias && r == 0, to + r * s[RESULT_ROW]);
}

// The gradient by û; of coefficients without an axis of points it is summed over them. The values
// as well, where there is room for them.
static void gradient_part(const int64_t *s, int64_t thread, int64_t offset, int64_t entries,
                          int64_t width, const T *given, int64_t row, T *few, T *out)
{
  const int64_t step = BROADCAST ? FEW * width : entries;
  double *sums = SUMS_OF(thread) + s[OUT];
  for (int64_t k = 0; k < entries; k += step) {
    const int64_t n = entries - k < step ? entries - k : step;
    for (int64_t i = 0; i < BROADCAST * width; i++) few[i] = 0;
    if (out)
      gradient_and_values(s, thread, offset + k, k, n / width, width, given + k, row, few, out + k,
                          entries);
    else
      gradient(s, thread, offset + k, k, n / width, width, given + k, row, few);
    for (int64_t i = 0; i < BROADCAST * width; i++) sums[i] += few[i];
  }
}

void reverse_part(const int64_t *s, int64_t thread, int64_t start)
{
  const int64_t n = POINTS(start), entries = n * s[INNER], width = WIDTH(n);
  const int64_t offset = start * s[INNER], size = s[IN] * s[OUT];
  const T *given = (const T *)s[COTANGENT];
  T *room = ROOM_OF(thread);
  if (!s[WEIGHT]) {
    gradient_part(s, thread, offset, entries, width, given + offset, s[COTANGENT_ROW], room, 0);
    return;
  }
  const int in = s[IN], out = s[OUT];
  const int64_t rows = entries / in;
  T *again = room + ROWS * s[PART] * s[INNER], *few = again + ROWS * s[PART] * s[INNER];
  given += s[COTANGENT_ROOM] ? thread * s[COTANGENT_ROOM] : start * (s[INNER] / in) * out;
  for (int64_t r = 0; r < ROWS; r++) {
    const T *from = given + r * s[COTANGENT_ROW];
    if (s[PANELS])
      TIMES_PANELS(rows, in, out, from, out, 1, (const T *)s[PANELS], 0, 0, room + r * entries);
    else
      multiply(s, "N", "N", rows, in, out, from, out, (const T *)s[WEIGHT], in, 0,
               room + r * entries);
  }
  if (s[OF_WEIGHT] && !FUSED) values(s, offset, entries / width, width, again, entries);
  gradient_part(s, thread, offset, entries, width, room, entries, few,
                s[OF_WEIGHT] && FUSED ? again : 0);
  if (s[OF_BIAS]) add_rows(given, rows, out, few, SUMS_OF(thread));
  if (!s[OF_WEIGHT]) return;
  T *by_weight = BY_WEIGHT(thread);
  if (s[PANELS]) {
    for (int64_t r = 0; r < ROWS; r++) {
      FILL_PANELS(again + r * entries, rows, in, 0, few);
      TIMES_PANELS(out, in, rows, given + r * s[COTANGENT_ROW], 1, out, few, 0, 1, by_weight);
    }
    return;
  }
  int64_t terms = 0;  // BLAS would add each term to the whole sum
  for (int64_t r = 0; r < ROWS; r++) {
    multiply(s, "T", "N", out, in, rows, given + r * s[COTANGENT_ROW], out, again + r * entries,
             in, terms > 0, few);
    terms += rows;
    if (terms + rows <= s[LONGEST] && r < ROWS - 1) continue;
    for (int64_t i = 0; i < size; i++) by_weight[i] += few[i];
    terms = 0;
  }
}

void prepare(const int64_t *s)
{
  const int64_t size = s[IN] * s[OUT];
  if (s[PANELS]) {  // values are multiplied by the transpose, cotangents by the weight itself
    const int64_t values = s[RESULT] != 0;
    FILL_PANELS((const T *)s[WEIGHT], s[values ? IN : OUT], s[values ? OUT : IN], values,
                (T *)s[PANELS]);
  }
  for (int64_t t = 0; t < s[THREADS]; t++) {
    for (int64_t i = 0; s[OF_WEIGHT] && i < size; i++) BY_WEIGHT(t)[i] = 0;
    for (int64_t i = 0; i < s[SUMS_SIZE]; i++) SUMS_OF(t)[i] = 0;
  }
}

static void put(const int64_t *s, int64_t from, int64_t count, T *to)
{
  for (int64_t i = 0; i < count; i++) {
    double sum = 0;
    for (int64_t t = 0; t < s[THREADS]; t++) sum += SUMS_OF(t)[from + i];
    to[i] = sum;
  }
}

// Of all threads.
void finish(const int64_t *s)
{
  const int64_t size = s[IN] * s[OUT], width = s[INNER_WIDTH];
  for (int64_t t = 1; s[OF_WEIGHT] && t < s[THREADS]; t++)
    for (int64_t i = 0; i < size; i++) BY_WEIGHT(0)[i] += BY_WEIGHT(t)[i];
  if (s[OF_BIAS]) put(s, 0, s[OUT], (T *)s[OF_BIAS]);
  for (int64_t k = 0; width && k < BROADCAST; k++)
    put(s, s[OUT] + k * width, width, (T *)s[broadcast_array[k]] + broadcast_row[k] * width);
}

// The layer W x̂ + b that a chain may begin with, whose x̂ is the value at all points and blocks
// without points; behind the fields: x, how many blocks; of each its rows, how many, and where W
// times them goes, or the gradient by that comes from.
#define BLOCK(k, what) s[ARRAYS + 2 + 3 * (k) + (what)]

void start_prepare(const int64_t *s)
{
  if (s[RESULT])
    for (int64_t k = 0; k < s[ARRAYS + 1]; k++)
      multiply(s, "N", "T", BLOCK(k, 1), s[OUT], s[IN], (const T *)BLOCK(k, 0), s[IN],
               (const T *)s[WEIGHT], s[IN], 0, (T *)BLOCK(k, 2));
  prepare(s);
}

// BLAS takes long for so few columns: loops of a constant number of them.
#define NARROW (s[IN] <= 8)
#define INLINE static inline __attribute__((always_inline))
#define WITH_CONSTANT(in, call)                              \
  switch (in) {                                              \
    case 1: { enum { in = 1 }; call; break; }                \
    case 2: { enum { in = 2 }; call; break; }                \
    case 3: { enum { in = 3 }; call; break; }                \
    case 4: { enum { in = 4 }; call; break; }                \
    default: call;                                           \
  }

// `columns` are those of the weight, and behind them the bias.
INLINE void narrow_product(const T *x, int64_t rows, const int64_t in, int64_t out,
                           const T *columns, T *to)
{
  for (int64_t p = 0; p < rows; p++)
    for (int64_t i = 0; i < out; i++) {
      T sum = columns[in * out + i];
      _Pragma("GCC unroll 8")
      for (int64_t k = 0; k < in; k++) sum += x[p * in + k] * columns[k * out + i];
      to[p * out + i] = sum;
    }
}

// Sums of the rows of x, and of these times each column of `factors`.
INLINE void narrow_sums(const T *x, int64_t rows, const int64_t in, int64_t out, const T *factors,
                        T *few, double *sums)
{
  for (int64_t p = 0; p < rows; p += FEW) {
    const int64_t end = p + FEW < rows ? p + FEW : rows;
    for (int64_t i = 0; i < (in + 1) * out; i++) few[i] = 0;
    for (int64_t q = p; q < end; q++)
      for (int64_t i = 0; i < out; i++) {
        const T value = x[q * out + i];
        few[i] += value;
        _Pragma("GCC unroll 8")
        for (int64_t k = 0; k < in; k++) few[(k + 1) * out + i] += factors[q * in + k] * value;
      }
    for (int64_t i = 0; i < (in + 1) * out; i++) sums[i] += few[i];
  }
}

void start_forward_part(const int64_t *s, int64_t thread, int64_t start)
{
  const int64_t in = s[IN], out = s[OUT], rows = POINTS(start) * s[INNER] / in;
  const T *x = (const T *)s[ARRAYS] + start * s[INNER], *weight = (const T *)s[WEIGHT];
  const T *bias = (const T *)s[BIAS];
  T *to = (T *)s[RESULT] + start * (s[INNER] / in) * out;
  if (!NARROW) {
    for (int64_t p = 0; bias && p < rows; p++)
      for (int64_t i = 0; i < out; i++) to[p * out + i] = bias[i];
    multiply(s, "N", "T", rows, out, in, x, in, weight, in, bias != 0, to);
    return;
  }
  T *columns = ROOM_OF(thread);
  for (int64_t i = 0; i < out; i++) {
    for (int64_t k = 0; k < in; k++) columns[k * out + i] = weight[i * in + k];
    columns[in * out + i] = bias ? bias[i] : 0;
  }
  WITH_CONSTANT(in, narrow_product(x, rows, in, out, columns, to))
}

void start_reverse_part(const int64_t *s, int64_t thread, int64_t start)
{
  const int64_t in = s[IN], out = s[OUT], rows = POINTS(start) * s[INNER] / in;
  const T *given = (const T *)s[COTANGENT] + thread * s[COTANGENT_ROOM];
  const T *x = (const T *)s[ARRAYS] + start * s[INNER];
  T *few = ROOM_OF(thread), *by_weight = BY_WEIGHT(thread);
  double *sums = SUMS_OF(thread);
  if (NARROW && s[OF_WEIGHT]) {
    WITH_CONSTANT(in, narrow_sums(given, rows, in, out, x, few, sums))
    return;
  }
  if (s[OF_BIAS]) add_rows(given, rows, out, few, sums);
  if (!s[OF_WEIGHT]) return;
  multiply(s, "T", "N", out, in, rows, given, out, x, in, 0, few);
  for (int64_t i = 0; i < in * out; i++) by_weight[i] += few[i];
}

void start_finish(const int64_t *s)
{
  finish(s);
  if (!s[OF_WEIGHT]) return;
  T *by_weight = (T *)s[OF_WEIGHT], *few = ROOM_OF(0);
  for (int64_t k = 0; NARROW && k < s[IN]; k++) {
    put(s, (k + 1) * s[OUT], s[OUT], few);
    for (int64_t i = 0; i < s[OUT]; i++) by_weight[i * s[IN] + k] = few[i];
  }
  for (int64_t k = 0; k < s[ARRAYS + 1]; k++)
    multiply(s, "T", "N", s[OUT], s[IN], BLOCK(k, 1), (const T *)BLOCK(k, 2), s[OUT],
             (const T *)BLOCK(k, 0), s[IN], 1, by_weight);
}

// Chains of layers: c is their number, and of each the four functions above and where its own
// numbers begin, in c. All have the same points, parts and threads.
typedef void (*Step)(const int64_t *);
typedef void (*Work)(const int64_t *, int64_t, int64_t);
enum { FORWARD, REVERSE, PREPARE, FINISH, NUMBERS, LAYER };
#define LAYER_OF(k, what) c[1 + LAYER * (k) + (what)]
#define NUMBERS_OF(k) (c + LAYER_OF(k, NUMBERS))

static void forward_layers(const int64_t *c, int64_t thread, int64_t start)
{
  for (int64_t k = 0; k < c[0]; k++) ((Work)LAYER_OF(k, FORWARD))(NUMBERS_OF(k), thread, start);
}

static void reverse_layers(const int64_t *c, int64_t thread, int64_t start)
{
  for (int64_t k = c[0] - 1; k >= 0; k--)
    ((Work)LAYER_OF(k, REVERSE))(NUMBERS_OF(k), thread, start);
}

// On one thread no region is opened: BLAS would open another inside of it, and start threads anew.
#define FOR_ALL_PARTS(function)                                                 \
  const int64_t *s = NUMBERS_OF(0);                                             \
  if (s[THREADS] == 1)                                                          \
    for (int64_t k = 0; k < s[TOTAL]; k += s[PART]) function(c, 0, k);          \
  else {                                                                        \
    _Pragma("omp parallel for num_threads(s[THREADS]) schedule(static)")        \
    for (int64_t k = 0; k < s[TOTAL]; k += s[PART]) function(c, THREAD, k);     \
  }

void forward(const int64_t *c)
{
  for (int64_t k = 0; k < c[0]; k++) ((Step)LAYER_OF(k, PREPARE))(NUMBERS_OF(k));
  FOR_ALL_PARTS(forward_layers)
}

void reverse(const int64_t *c)
{
  for (int64_t k = 0; k < c[0]; k++) ((Step)LAYER_OF(k, PREPARE))(NUMBERS_OF(k));
  FOR_ALL_PARTS(reverse_layers)
  for (int64_t k = c[0] - 1; k >= 0; k--) ((Step)LAYER_OF(k, FINISH))(NUMBERS_OF(k));
}
