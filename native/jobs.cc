// Slow work on the threads of libuv's pool: copying data, fsync, fallocate. Each function gives a promise, which is
// never rejected for a failed syscall: it resolves to -errno, and src/sys/job.ts makes the error.
//
// run() is on a pool thread and touches neither JavaScript nor Node-API; value() is on the loop's thread. Descriptors
// stay the caller's: they must be open until the promise settles. When the environment goes away, Node waits for the
// jobs: one that has not started does nothing, a copy stops at its next block.
#include <fcntl.h>
#include <linux/magic.h>
#include <malloc.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "args.h"
#include "kernel.h"
#include "patience.h"
#include "register.h"

namespace lamina {
namespace {

class Job {
 public:
  explicit Job(State& state) : stopping_(state.stopping) {}
  virtual ~Job() = default;
  virtual void run() = 0;
  virtual napi_value value(napi_env env) { return integer(env, error_ != 0 ? -error_ : result_); }

  // Takes the job; gives its promise, or nullptr with an exception pending.
  static napi_value start(napi_env env, std::unique_ptr<Job> job) {
    napi_value promise = nullptr;
    napi_value name = nullptr;
    if (job == nullptr || napi_create_promise(env, &job->deferred_, &promise) != napi_ok ||
        napi_create_string_utf8(env, "lamina", NAPI_AUTO_LENGTH, &name) != napi_ok ||
        napi_create_async_work(env, nullptr, name, execute, complete, job.get(), &job->work_) != napi_ok) {
      napi_throw_error(env, nullptr, "a job could not be created");
      return nullptr;
    }
    if (napi_queue_async_work(env, job->work_) != napi_ok) {
      napi_delete_async_work(env, job->work_);
      napi_throw_error(env, nullptr, "a job could not be started");
      return nullptr;
    }
    job.release();  // complete() owns it now
    return promise;
  }

 protected:
  // errno of the failure, or the number that is the job's result.
  int error_ = 0;
  int64_t result_ = 0;

  // Whether the environment goes away; the job then has failed with ECANCELED.
  bool stopped() {
    if (!stopping_->load(std::memory_order_relaxed)) return false;
    error_ = ECANCELED;
    return true;
  }

  // Runs a syscall until a signal does not interrupt it; keeps its result.
  template <typename Call>
  void once(Call call) {
    int64_t rc;
    do rc = call();
    while (rc < 0 && errno == EINTR);
    if (rc < 0) {
      error_ = errno;
    } else {
      result_ = rc;
    }
  }

 private:
  static void execute(napi_env, void* data) {
    auto* job = static_cast<Job*>(data);
    if (!job->stopped()) job->run();
  }

  static void complete(napi_env env, napi_status status, void* data) {
    const std::unique_ptr<Job> job(static_cast<Job*>(data));
    if (status != napi_ok && job->error_ == 0) job->error_ = ECANCELED;
    // Fails when the environment is going away; there is nobody left to tell.
    napi_value value = job->value(env);
    if (value != nullptr) napi_resolve_deferred(env, job->deferred_, value);
    napi_delete_async_work(env, job->work_);
  }

  const std::shared_ptr<std::atomic<bool>> stopping_;
  napi_deferred deferred_ = nullptr;
  napi_async_work work_ = nullptr;
};

template <typename Call>
class SyscallJob final : public Job {
 public:
  SyscallJob(State& state, Call call) : Job(state), call_(call) {}
  void run() override { once(call_); }

 private:
  Call call_;
};

template <typename Call>
napi_value start_syscall(Args& args, Call call) {
  return Job::start(args.env(), std::unique_ptr<Job>(new (std::nothrow) SyscallJob<Call>(args.state(), call)));
}

// The next way of copying is tried after these: another filesystem, or one that does not know this way.
bool not_supported(int errnum) {
  return errnum == EXDEV || errnum == EINVAL || errnum == ENOSYS || errnum == EOPNOTSUPP;
}

class CopyJob final : public Job {
 public:
  CopyJob(State& state, int from, int to, int64_t size, bool reflink)
      : Job(state), from_(from), to_(to), size_(size), reflink_(reflink) {}

  // Preconditions: `to` is empty, or sparse without data; both are regular files.
  void run() override {
    if (reflink_ && clone()) return;
    if (!copy_extents()) return;
    // Also makes a hole at the end, and cuts what a growing source may have added.
    truncate(to_, size_);
  }

  // [bytes copied, method] or -errno.
  napi_value value(napi_env env) override {
    if (error_ != 0) return integer(env, -error_);
    napi_value out = nullptr;
    if (napi_create_array_with_length(env, 2, &out) != napi_ok) return nullptr;
    napi_set_element(env, out, 0, integer(env, result_));
    napi_set_element(env, out, 1, integer(env, method_));
    return out;
  }

 private:
  enum Method : int { kReflink, kCopyFileRange, kReadWrite };  // the order of METHODS in src/sys/job.ts
  static constexpr size_t kBlock = 1024 * 1024;
  static constexpr int64_t kRangeBlock = 16 * 1024 * 1024;  // between two looks at `stopping`

  // True when the work is done, or has failed for good.
  bool clone() {
    int rc;
    do rc = ioctl(to_, kFiclone, from_);
    while (rc < 0 && errno == EINTR);
    if (rc < 0) {
      // Copying would run into these as well; whatever else FICLONE dislikes, copying may still manage.
      if (errno != EIO && errno != ENOSPC && errno != EDQUOT) return false;
      error_ = errno;
      return true;
    }
    method_ = kReflink;
    result_ = size_;
    truncate(to_, size_);
    return true;
  }

  // False on failure.
  bool copy_extents() {
    bool seekable = true;
    for (int64_t at = 0; at < size_;) {
      int64_t data = at;
      int64_t hole = size_;
      if (seekable) {
        data = lseek(from_, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO) return true;  // a hole up to the end
        if (data < 0 && not_supported(errno)) {
          seekable = false;
          continue;
        }
        if (data < 0) return fail();
        if (data >= size_) return true;
        hole = lseek(from_, data, SEEK_HOLE);
        if (hole < 0 && errno == ENXIO) return true;  // the source was truncated under us
        if (hole < 0) return fail();
        hole = std::min(hole, size_);
      }
      if (!copy_range(data, hole)) return false;
      at = hole;
    }
    return true;
  }

  bool copy_range(int64_t from, int64_t end) {
    while (method_ == kCopyFileRange && from < end) {
      if (stopped()) return false;
      off_t in = from;
      off_t out = from;
      const size_t want = static_cast<size_t>(std::min(end - from, kRangeBlock));
      const ssize_t rc = copy_file_range(from_, &in, to_, &out, want, 0);
      if (rc < 0 && errno == EINTR) continue;
      if (rc < 0 && !not_supported(errno)) return fail();
      // 0 is the end of the file, or a filesystem that claims support and copies nothing (fixed in Linux 5.19 and
      // later for most): read(2) knows.
      if (rc <= 0) {
        method_ = kReadWrite;
        break;
      }
      from += rc;
      result_ += rc;
    }
    return from >= end || read_write(from, end);
  }

  bool read_write(int64_t from, int64_t end) {
    if (block_ == nullptr) block_.reset(new (std::nothrow) char[kBlock]);
    if (block_ == nullptr) {
      error_ = ENOMEM;
      return false;
    }
    while (from < end) {
      if (stopped()) return false;
      const size_t want = static_cast<size_t>(std::min<int64_t>(end - from, kBlock));
      const ssize_t got = pread(from_, block_.get(), want, from);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return fail();
      if (got == 0) return true;  // shorter than it was: what is missing becomes a hole
      for (ssize_t done = 0; done < got;) {
        const ssize_t put = pwrite(to_, block_.get() + done, got - done, from + done);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return fail();
        done += put;
      }
      from += got;
      result_ += got;
    }
    return true;
  }

  void truncate(int fd, int64_t size) {
    int rc;
    do rc = ftruncate(fd, size);
    while (rc < 0 && errno == EINTR);
    if (rc < 0) error_ = errno;
  }

  bool fail() {
    error_ = errno;
    return false;
  }

  int from_;
  int to_;
  int64_t size_;
  bool reflink_;
  std::unique_ptr<char[]> block_;
  Method method_ = kCopyFileRange;
};

// copyData(from, to, size, reflink): promise of [bytes, method] or -errno.
napi_value copy_data(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int from = args.fd(0);
  const int to = args.fd(1);
  const int64_t size = args.i64(2);
  const bool reflink = args.boolean(3);
  if (!args.failed() && size < 0) args.wrong(2, "a size");
  if (args.failed()) return args.reject();
  return Job::start(env, std::unique_ptr<Job>(new (std::nothrow) CopyJob(args.state(), from, to, size, reflink)));
}

// Whether a file of which RWF_NOWAIT gives EOPNOTSUPP is in memory anyway.
bool in_memory(int fd) {
  struct statfs fs;
  return fstatfs(fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

// copyCached(from, fromAt, to, toAt, length): the bytes copied, fewer than asked at the end of the file, when all of a small
// range was in the page cache; -EAGAIN when a thread must copy it (nothing was written), or -errno.
napi_value copy_cached(napi_env env, napi_callback_info info) {
  constexpr size_t kMost = 64 * 1024;
  Args args(env, info);
  const int from = args.fd(0);
  const off_t from_at = args.i64(1);
  const int to = args.fd(2);
  const off_t to_at = args.i64(3);
  const int64_t length = args.i64(4);
  if (!args.failed() && (from_at < 0 || to_at < 0 || length < 0)) args.wrong(4, "a range");
  if (args.failed()) return args.reject();
  // Not even asked: it might not answer.
  if (remote_of(from) != nullptr) return failure(env, EAGAIN);
  if (!may_change(to)) return result(env, -1);
  char data[kMost];
  const size_t most = std::min<int64_t>(length, kMost);
  size_t size = 0;
  for (int flags = RWF_NOWAIT; size < most;) {
    iovec part = {data + size, most - size};
    const ssize_t got = preadv2(from, &part, 1, from_at + size, flags);
    if (got == 0) break;
    if (got > 0) {
      size += got;
    } else if (errno == EOPNOTSUPP && flags != 0 && in_memory(from)) {
      flags = 0;
    } else if (errno != EINTR) {
      return failure(env, EAGAIN);
    }
  }
  if (size == kMost && length > static_cast<int64_t>(kMost)) return failure(env, EAGAIN);
  for (size_t at = 0; at < size;) {
    const ssize_t put = pwrite(to, data + at, size - at, to_at + at);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && at > 0) return integer(env, at);
    if (put < 0) return failure(env, errno);
    at += put;
  }
  return integer(env, size);
}

// stopJobs(): for process.exit() of the main thread, which waits for the pool's threads and runs no cleanup hook.
napi_value stop_jobs(napi_env env, napi_callback_info info) {
  Args args(env, info);
  args.state().stopping->store(true);
  return nullptr;
}

// mallocTrim(): gives the heap of C and C++ that is free back to the system.
napi_value malloc_trim_now(napi_env, napi_callback_info) {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
  return nullptr;
}

napi_value fsync_job(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  if (args.failed()) return args.reject();
  return start_syscall(args, [fd] { return fsync(fd); });
}

napi_value fdatasync_job(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  if (args.failed()) return args.reject();
  return start_syscall(args, [fd] { return fdatasync(fd); });
}

napi_value syncfs_job(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  if (args.failed()) return args.reject();
  return start_syscall(args, [fd] { return syncfs(fd); });
}

napi_value fallocate_job(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const int mode = args.i32(1);
  const off_t offset = args.i64(2);
  const off_t length = args.i64(3);
  if (args.failed()) return args.reject();
  return start_syscall(args, [=] { return fallocate(fd, mode, offset, length); });
}

// growDescriptors(count): promise of 0. The kernel waits for all its processors, 5 to 15 ms, whenever the table of descriptors of a
// process with threads has to grow (expand_files(), fs/file.c): better here than in a request.
napi_value grow_descriptors_job(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int count = args.i32(0);
  if (!args.failed() && count < 1) args.wrong(0, "a number of descriptors");
  if (args.failed()) return args.reject();
  return start_syscall(args, [count] {
    const int any = open("/", O_PATH | O_CLOEXEC);
    if (any < 0) return -1;
    const int last = fcntl(any, F_DUPFD_CLOEXEC, count - 1);
    const int errnum = errno;
    if (last >= 0) close(last);
    close(any);
    errno = errnum;
    return last < 0 ? -1 : 0;
  });
}

// copyFileRange(inFd, inOffset, outFd, outOffset, length): promise of the bytes copied or -errno.
napi_value copy_file_range_job(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int in = args.fd(0);
  const off_t in_offset = args.i64(1);
  const int out = args.fd(2);
  const off_t out_offset = args.i64(3);
  const int64_t length = args.i64(4);
  if (!args.failed() && length < 0) args.wrong(4, "a length");
  if (args.failed()) return args.reject();
  return start_syscall(args, [=] {
    off_t from = in_offset;
    off_t to = out_offset;
    return copy_file_range(in, &from, out, &to, static_cast<size_t>(length), 0);
  });
}

}  // namespace

bool register_jobs(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "copyData", copy_data) &&
         define(env, exports, state, "copyCached", copy_cached) &&
         define(env, exports, state, "stopJobs", stop_jobs) &&
         define(env, exports, state, "mallocTrim", malloc_trim_now) &&
         define(env, exports, state, "fsyncJob", fsync_job) &&
         define(env, exports, state, "fdatasyncJob", fdatasync_job) &&
         define(env, exports, state, "syncfsJob", syncfs_job) &&
         define(env, exports, state, "fallocateJob", fallocate_job) &&
         define(env, exports, state, "growDescriptorsJob", grow_descriptors_job) &&
         define(env, exports, state, "copyFileRangeJob", copy_file_range_job);
}

}  // namespace lamina
