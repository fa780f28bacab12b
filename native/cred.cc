// Who this thread acts as: fsuid, fsgid, capabilities, umask; and resource limits.
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>

#include "args.h"
#include "capability.h"
#include "creator.h"
#include "kernel.h"
#include "register.h"

namespace lamina {
namespace {

// Capabilities that leave the effective set when fsuid goes from 0 to another id, and come back when it returns
// (CAP_FS_SET of linux/capability.h): CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, LINUX_IMMUTABLE, MKNOD
// in the first word, MAC_OVERRIDE in the second.
constexpr uint32_t kFsCaps0 = 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH |
                              1u << CAP_FOWNER | 1u << CAP_FSETID | 1u << CAP_LINUX_IMMUTABLE | 1u << CAP_MKNOD;
constexpr uint32_t kFsCaps1 = 1u << (CAP_MAC_OVERRIDE - 32);

// The raw syscalls: glibc's wrappers for these touch only the calling thread as well, but setfsuid(2) of glibc
// and musl differ in what they return for ids above 2^31.
uid_t set_fsuid(uid_t uid) { return static_cast<uid_t>(syscall(SYS_setfsuid, uid)); }
gid_t set_fsgid(gid_t gid) { return static_cast<gid_t>(syscall(SYS_setfsgid, gid)); }
// An id that is never valid changes nothing; the call then returns the current one.
uid_t fsuid() { return set_fsuid(static_cast<uid_t>(-1)); }
gid_t fsgid() { return set_fsgid(static_cast<gid_t>(-1)); }

// Sets both ids of this thread and keeps its effective capabilities. 0 or errno; on an error nothing has changed.
//
// Every change of credentials costs about a microsecond in the kernel (a new struct cred and its RCU grace period),
// so nothing is set that is already right.
int become(uid_t uid, gid_t gid) {
  const uid_t old_uid = fsuid();
  const gid_t old_gid = fsgid();
  if (old_gid != gid) {
    set_fsgid(gid);
    // Both calls report success whatever happens; reading back is the only way to know (setfsuid(2), BUGS).
    if (fsgid() != gid) return EINVAL;
  }
  if (old_uid == uid) return 0;

  // The kernel takes capabilities away only on the way from 0, and gives some only on the way to 0.
  Caps caps;
  const bool crossing = old_uid == 0 || uid == 0;
  if (crossing && !caps.get()) {
    set_fsgid(old_gid);
    return errno;
  }
  set_fsuid(uid);
  int error = fsuid() == uid ? 0 : EINVAL;
  if (error == 0 && crossing) {
    const bool changed =
        uid == 0 ? ((caps.data[0].permitted & ~caps.data[0].effective & kFsCaps0) |
                    (caps.data[1].permitted & ~caps.data[1].effective & kFsCaps1)) != 0
                 : ((caps.data[0].effective & kFsCaps0) | (caps.data[1].effective & kFsCaps1)) != 0;
    if (changed && !caps.set()) error = errno;
  }
  if (error != 0) {
    set_fsuid(old_uid);
    set_fsgid(old_gid);
    caps.set();
  }
  return error;
}

// What this thread is as long as it acts for nobody.
struct Self {
  const uid_t uid = fsuid();
  const gid_t gid = fsgid();
  const bool dumpable = prctl(PR_GET_DUMPABLE) == 1;
};

const Self& self() {
  static const Self ids;
  return ids;
}

// A change of fsuid makes the process non-dumpable, which takes its /proc/PID from its own user (commit_creds): with its own ids it
// gets that back. 0 or errno.
int switch_to(uid_t uid, gid_t gid) {
  const int error = become(uid, gid);
  if (self().dumpable && uid == self().uid && gid == self().gid) prctl(PR_SET_DUMPABLE, 1);
  return error;
}

// becomeCreator(uid, gid): 0 or -errno.
napi_value become_creator(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const uid_t uid = args.u32(0);
  const gid_t gid = args.u32(1);
  if (args.failed()) return args.reject();
  if (uid == static_cast<uid_t>(-1) || gid == static_cast<gid_t>(-1)) return failure(env, EINVAL);
  return integer(env, -switch_to(uid, gid));
}

// dumpable(): whether the process is (PR_GET_DUMPABLE is 1).
napi_value dumpable_(napi_env env, napi_callback_info) {
  napi_value out = nullptr;
  napi_get_boolean(env, prctl(PR_GET_DUMPABLE) == 1, &out);
  return out;
}

// fsIds(): [fsuid, fsgid] of this thread.
napi_value fs_ids(napi_env env, napi_callback_info) {
  napi_value out = nullptr;
  napi_create_array_with_length(env, 2, &out);
  napi_set_element(env, out, 0, integer(env, fsuid()));
  napi_set_element(env, out, 1, integer(env, fsgid()));
  return out;
}

napi_value umask_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const mode_t mask = args.u32(0);
  if (args.failed()) return args.reject();
  return integer(env, umask(mask & 0777));
}

napi_value geteuid_(napi_env env, napi_callback_info) { return integer(env, geteuid()); }

// capabilities(): [effective, permitted] of this thread, as numbers of 41 bits.
napi_value capabilities(napi_env env, napi_callback_info) {
  Caps caps;
  if (!caps.get()) return result(env, -1);
  const auto joined = [&](uint32_t lo, uint32_t hi) {
    return integer(env, static_cast<int64_t>(hi) << 32 | lo);
  };
  napi_value out = nullptr;
  napi_create_array_with_length(env, 2, &out);
  napi_set_element(env, out, 0, joined(caps.data[0].effective, caps.data[1].effective));
  napi_set_element(env, out, 1, joined(caps.data[0].permitted, caps.data[1].permitted));
  return out;
}

napi_value number(napi_env env, rlim_t value) {
  napi_value out = nullptr;
  napi_create_double(env, value == RLIM_INFINITY ? INFINITY : static_cast<double>(value), &out);
  return out;
}

// getrlimit(resource): [soft, hard], Infinity for none; or -errno.
napi_value getrlimit_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int resource = args.i32(0);
  if (args.failed()) return args.reject();
  struct rlimit limit;
  if (getrlimit(static_cast<__rlimit_resource_t>(resource), &limit) != 0) return result(env, -1);
  napi_value out = nullptr;
  napi_create_array_with_length(env, 2, &out);
  napi_set_element(env, out, 0, number(env, limit.rlim_cur));
  napi_set_element(env, out, 1, number(env, limit.rlim_max));
  return out;
}

rlim_t limit_of(Args& args, size_t i) {
  double value = 0;
  if (napi_get_value_double(args.env(), args.raw(i), &value) == napi_ok && value == INFINITY) {
    return RLIM_INFINITY;
  }
  const int64_t limit = args.i64(i);
  if (!args.failed() && limit < 0) args.wrong(i, "a limit");
  return static_cast<rlim_t>(limit);
}

napi_value setrlimit_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int resource = args.i32(0);
  struct rlimit limit;
  limit.rlim_cur = limit_of(args, 1);
  limit.rlim_max = limit_of(args, 2);
  if (args.failed()) return args.reject();
  return result(env, setrlimit(static_cast<__rlimit_resource_t>(resource), &limit));
}

}  // namespace

AsCreator::AsCreator(uid_t uid, gid_t gid, mode_t mask) {
  const bool nobody = uid == static_cast<uid_t>(-1) || gid == static_cast<gid_t>(-1);
  switched_ = uid != self().uid || gid != self().gid;
  if (nobody || (switched_ && switch_to(uid, gid) != 0)) {
    switched_ = false;
    return;
  }
  ok_ = true;
  mask_ = mask & 0777;
  old_mask_ = umask(mask_);
}

AsCreator::~AsCreator() {
  if (!ok_) return;
  if (old_mask_ != mask_) umask(old_mask_);
  if (!switched_) return;
  // Cannot fail: these ids and capabilities were this thread's own. If it does, going on would make files for the wrong user.
  if (switch_to(self().uid, self().gid) != 0) abort();
}

bool register_cred(napi_env env, napi_value exports, State* state) {
  self();
  return define(env, exports, state, "becomeCreator", become_creator) &&
         define(env, exports, state, "dumpable", dumpable_) &&
         define(env, exports, state, "fsIds", fs_ids) && define(env, exports, state, "umask", umask_) &&
         define(env, exports, state, "geteuid", geteuid_) &&
         define(env, exports, state, "capabilities", capabilities) &&
         define(env, exports, state, "getrlimit", getrlimit_) &&
         define(env, exports, state, "setrlimit", setrlimit_);
}

}  // namespace lamina
