// Arguments from JavaScript, checked: a wrong type or a number out of range throws TypeError, never crashes.
#pragma once

#include <node_api.h>

#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>

#include "env.h"

namespace lamina {

struct Bytes {
  uint8_t* data = nullptr;
  size_t size = 0;
};

// What a double holds exactly.
inline constexpr double kMaxSafe = 9007199254740991.0;

class Args {
 public:
  static constexpr size_t kMax = 8;

  Args(napi_env env, napi_callback_info info) : env_(env) {
    size_t count = kMax;
    void* data = nullptr;
    // Missing arguments are filled with undefined, so values_ is always complete.
    if (napi_get_cb_info(env, info, &count, values_, nullptr, &data) != napi_ok) failed_ = true;
    state_ = static_cast<State*>(data);
  }
  Args(const Args&) = delete;
  Args& operator=(const Args&) = delete;

  napi_env env() const { return env_; }
  State& state() const { return *state_; }
  napi_value raw(size_t i) const { return values_[i]; }

  // Whether an argument was refused: the wrapper then returns reject().
  bool failed() const { return failed_; }

  // Preconditions: failed(). The errno of a name that no syscall could take, or the pending TypeError.
  napi_value reject() const {
    if (errno_ == 0) return nullptr;
    napi_value out = nullptr;
    napi_create_int32(env_, -errno_, &out);
    return out;
  }

  // A descriptor, or AT_FDCWD.
  int fd(size_t i) { return static_cast<int>(number(i, -100, INT_MAX, "a file descriptor")); }
  // Flags and modes: any 32 bits, signed (as JavaScript's bit operators leave them) or not.
  uint32_t u32(size_t i) {
    return static_cast<uint32_t>(static_cast<int64_t>(number(i, INT_MIN, UINT32_MAX, "a 32 bit integer")));
  }
  int i32(size_t i) { return static_cast<int>(u32(i)); }
  // Offsets, lengths, seconds.
  int64_t i64(size_t i) {
    return static_cast<int64_t>(number(i, -kMaxSafe, kMaxSafe, "a safe integer"));
  }

  bool boolean(size_t i) {
    bool out = false;
    if (failed_) return out;
    if (napi_get_value_bool(env_, values_[i], &out) != napi_ok) wrong(i, "a boolean");
    return out;
  }

  // A string of any length, a byte each.
  std::string text(size_t i) {
    std::string out;
    size_t length = 0;
    if (failed_) return out;
    if (napi_get_value_string_latin1(env_, values_[i], nullptr, 0, &length) != napi_ok) {
      wrong(i, "a string");
      return out;
    }
    out.resize(length);
    napi_get_value_string_latin1(env_, values_[i], out.data(), length + 1, nullptr);
    return out;
  }

  bool missing(size_t i) const {
    napi_valuetype type = napi_undefined;
    napi_typeof(env_, values_[i], &type);
    return type == napi_undefined || type == napi_null;
  }

  // Buffer or other view; the memory is valid until the callback returns.
  Bytes bytes(size_t i) {
    Bytes out;
    if (failed_) return out;
    bool is = false;
    void* data = nullptr;
    if (napi_is_buffer(env_, values_[i], &is) != napi_ok || !is ||
        napi_get_buffer_info(env_, values_[i], &data, &out.size) != napi_ok) {
      wrong(i, "a Buffer");
      return Bytes{};
    }
    out.data = static_cast<uint8_t*>(data);
    return out;
  }

  void wrong(size_t i, const char* expected) {
    if (failed_) return;
    failed_ = true;
    char text[160];
    snprintf(text, sizeof text, "argument %zu must be %s", i + 1, expected);
    napi_throw_type_error(env_, "ERR_INVALID_ARG_TYPE", text);
  }

  // Refuses the call with an errno, as the kernel would.
  void refuse(int errnum) {
    if (failed_) return;
    failed_ = true;
    errno_ = errnum;
  }

 private:
  double number(size_t i, double min, double max, const char* expected) {
    if (failed_) return 0;
    double value = 0;
    // The comparison is false for NaN.
    if (napi_get_value_double(env_, values_[i], &value) != napi_ok || !(value >= min && value <= max) ||
        value != std::trunc(value)) {
      wrong(i, expected);
      return 0;
    }
    return value;
  }

  napi_env env_;
  State* state_ = nullptr;
  napi_value values_[kMax] = {};
  bool failed_ = false;
  int errno_ = 0;
};

// A name or path: a byte string, one char of JavaScript per byte. Read as UTF-16 and narrowed here, because the
// latin1 reader of Node-API silently cuts a char above 0xff to its low byte, which could make a '/' of it.
template <size_t kLimit>
class ByteString {
 public:
  // `too_long` is the errno for a string of kLimit bytes or more.
  ByteString(Args& args, size_t i, int too_long) { read(args, i, args.raw(i), too_long); }
  // A value that is not itself an argument; `i` is the argument it came with.
  ByteString(Args& args, size_t i, napi_value value, int too_long) { read(args, i, value, too_long); }

  const char* c_str() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

 private:
  void read(Args& args, size_t i, napi_value value, int too_long) {
    data_[0] = '\0';
    if (args.failed()) return;
    char16_t wide[kLimit + 1];
    size_t length = 0;
    if (napi_get_value_string_utf16(args.env(), value, wide, kLimit + 1, &length) != napi_ok) {
      args.wrong(i, "a string");
      return;
    }
    if (length >= kLimit) {
      args.refuse(too_long);
      return;
    }
    char16_t all = 0;
    bool nul = false;
    for (size_t at = 0; at < length; at++) {
      all |= wide[at];
      nul |= wide[at] == 0;
      data_[at] = static_cast<char>(wide[at]);
    }
    if (all > 0xff || nul) {
      args.wrong(i, "a byte string (latin1, without NUL)");
      return;
    }
    data_[length] = '\0';
    size_ = length;
  }

  char data_[kLimit];
  size_t size_ = 0;
};

// A path of at most PATH_MAX - 1 bytes.
class Name : public ByteString<PATH_MAX> {
 public:
  Name(Args& args, size_t i) : ByteString(args, i, ENAMETOOLONG) {}
  Name(Args& args, size_t i, napi_value value) : ByteString(args, i, value, ENAMETOOLONG) {}
};

// The name of an extended attribute: at most XATTR_NAME_MAX (255) bytes; the kernel says ERANGE beyond.
class AttrName : public ByteString<256> {
 public:
  AttrName(Args& args, size_t i) : ByteString(args, i, ERANGE) {}
};

// A nodeid.
inline uint64_t nodeid_of(Args& args, size_t i) {
  const int64_t value = args.i64(i);
  if (!args.failed() && value < 0) args.wrong(i, "a nodeid");
  return static_cast<uint64_t>(value);
}

inline napi_value undefined(napi_env env) {
  napi_value value = nullptr;
  napi_get_undefined(env, &value);
  return value;
}

inline napi_value integer(napi_env env, int64_t value) {
  napi_value out = nullptr;
  // napi_create_int64 makes a double; exact for every offset and size that a file can have below 2^53.
  if (value >= INT32_MIN && value <= INT32_MAX) {
    napi_create_int32(env, static_cast<int32_t>(value), &out);
  } else {
    napi_create_int64(env, value, &out);
  }
  return out;
}

// What a syscall returned: its value, or -errno.
inline napi_value result(napi_env env, int64_t rc) { return integer(env, rc < 0 ? -errno : rc); }

inline napi_value failure(napi_env env, int errnum) { return integer(env, -errnum); }

}  // namespace lamina
