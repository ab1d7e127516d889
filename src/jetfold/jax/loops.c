// What XLA calls for a loop over entries. In front of this file stand T, how many arrays there are
// (FROM and TO), how many axes entries have (AXES) and of these rows that are the same for many
// (INNER_AXES), and `part`, the loop over some of the entries.

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

// So many entries at least are worth a thread of their own, at a time.
#define CHUNK (1 << 11)

typedef struct {
  const T *from[FROM];
  T *to[TO];
  int64_t total, inner, chunk, chunks;
  atomic_llong next, users;
  int64_t done;
  pthread_mutex_t lock;
  pthread_cond_t finished;
} Work;

// Takes what nobody has begun, until there is nothing: nobody waits for others to begin.
static void take(Work *work)
{
  int64_t done = 0;
  for (int64_t k; (k = atomic_fetch_add(&work->next, 1)) < work->chunks; done++) {
    const int64_t first = k * work->chunk, left = work->total - first;
    part(work->from, work->to, work->total, work->inner, first,
         left < work->chunk ? left : work->chunk);
  }
  if (!done) return;
  pthread_mutex_lock(&work->lock);
  work->done += done;
  if (work->done == work->chunks) pthread_cond_signal(&work->finished);
  pthread_mutex_unlock(&work->lock);
}

static void wait_for_all(Work *work)
{
  pthread_mutex_lock(&work->lock);
  while (work->done < work->chunks) pthread_cond_wait(&work->finished, &work->lock);
  pthread_mutex_unlock(&work->lock);
}

static void leave(Work *work)
{
  if (atomic_fetch_sub(&work->users, 1) > 1) return;
  pthread_mutex_destroy(&work->lock);
  pthread_cond_destroy(&work->finished);
  free(work);
}

static void help(void *work)
{
  take(work);
  leave(work);
}

static int succeeded(XLA_FFI_CallFrame *frame, XLA_FFI_Error *error)
{
  if (!error) return 1;
  XLA_FFI_Error_Destroy_Args asked = {.struct_size = sizeof asked, .error = error};
  frame->api->XLA_FFI_Error_Destroy(&asked);
  return 0;
}

// Those of XLA, as far as there are cores for them.
static int64_t threads_of(XLA_FFI_CallFrame *frame)
{
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args asked = {
    .struct_size = sizeof asked, .ctx = frame->ctx, .num_threads = &threads};
  if (!succeeded(frame, frame->api->XLA_FFI_ThreadPool_NumThreads(&asked))) return 1;
#ifdef __linux__
  cpu_set_t cores;
  if (!sched_getaffinity(0, sizeof cores, &cores) && CPU_COUNT(&cores) < threads)
    threads = CPU_COUNT(&cores);
#endif
  return threads;
}

static int is_helped(XLA_FFI_CallFrame *frame, Work *work)
{
  XLA_FFI_ThreadPool_Schedule_Args asked = {
    .struct_size = sizeof asked, .ctx = frame->ctx, .task = help, .data = work};
  return succeeded(frame, frame->api->XLA_FFI_ThreadPool_Schedule(&asked));
}

static XLA_FFI_Error *failed(XLA_FFI_CallFrame *frame, const char *message)
{
  XLA_FFI_Error_Create_Args created = {
    .struct_size = sizeof created, .message = message, .errc = XLA_FFI_Error_Code_INTERNAL};
  return frame->api->XLA_FFI_Error_Create(&created);
}

XLA_FFI_Error *loop(XLA_FFI_CallFrame *frame)
{
  const XLA_FFI_Metadata_Extension *asked = (const void *)frame->extension_start;
  if (asked && asked->extension_base.type == XLA_FFI_Extension_Metadata) {
    asked->metadata->api_version.major_version = XLA_FFI_API_MAJOR;
    asked->metadata->api_version.minor_version = XLA_FFI_API_MINOR;
    return 0;
  }
  if (frame->stage != XLA_FFI_ExecutionStage_EXECUTE) return 0;
  Work *work = malloc(sizeof *work);
  if (!work) return failed(frame, "no memory left for a loop of jetfold");
  for (int k = 0; k < FROM; k++) work->from[k] = ((XLA_FFI_Buffer *)frame->args.args[k])->data;
  for (int k = 0; k < TO; k++) work->to[k] = ((XLA_FFI_Buffer *)frame->rets.rets[k])->data;
  const XLA_FFI_Buffer *entries = frame->rets.rets[0];
  work->total = work->inner = 1;
  for (int64_t k = entries->rank - AXES; k < entries->rank; k++) {
    work->total *= entries->dims[k];
    if (k >= entries->rank - INNER_AXES) work->inner *= entries->dims[k];
  }
  if (!work->total) {
    free(work);
    return 0;
  }
  work->chunk = work->inner * ((CHUNK + work->inner - 1) / work->inner);
  work->chunks = (work->total + work->chunk - 1) / work->chunk;
  int64_t threads = threads_of(frame);
  if (threads > work->chunks) threads = work->chunks;
  atomic_init(&work->next, 0);
  atomic_init(&work->users, threads);
  work->done = 0;
  pthread_mutex_init(&work->lock, 0);
  pthread_cond_init(&work->finished, 0);
  for (int64_t k = 1; k < threads; k++)
    if (!is_helped(frame, work)) leave(work);
  take(work);
  wait_for_all(work);
  leave(work);
  return 0;
}
