#include "account.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <new>

#include "account-value.h"
#include "args.h"
#include "register.h"

namespace lamina {

const ssize_t Account::kNoRoom = -ENOSPC;

namespace {

uint64_t rounded(uint64_t bytes) { return (bytes + Account::kPage - 1) / Account::kPage * Account::kPage; }

// Which pages of a file have room on disk.
class Pages {
 public:
  Pages(int fd, bool by_size) : fd_(fd) {
    struct stat st;
    if (fstat(fd, &st) != 0) return;
    whole_ = rounded(static_cast<uint64_t>(st.st_size));
    const uint64_t allocated = static_cast<uint64_t>(st.st_blocks) * 512;
    // Without a hole, data that was never written (fallocate) has its room all the same, also beyond the end.
    dense_ = by_size || allocated >= whole_;
    if (dense_ && !by_size) spare_ = allocated - whole_;
  }

  bool has_room(uint64_t page) {
    if (page >= whole_) {
      if (spare_ < Account::kPage) return false;
      spare_ -= Account::kPage;
      return true;
    }
    if (dense_) return true;
    if (page >= data_end_) find(page);
    return page + Account::kPage > data_;
  }

 private:
  void find(uint64_t page) {
    const off_t data = lseek(fd_, static_cast<off_t>(page), SEEK_DATA);
    // ENXIO: no more data. Anything else: not known, so it counts as a hole.
    data_ = data < 0 ? UINT64_MAX : static_cast<uint64_t>(data);
    const off_t hole = data < 0 ? -1 : lseek(fd_, data, SEEK_HOLE);
    data_end_ = hole < 0 ? UINT64_MAX : static_cast<uint64_t>(hole);
  }

  const int fd_;
  uint64_t whole_ = 0;
  uint64_t spare_ = 0;
  bool dense_ = false;
  // The stretch of data at or behind the last page that was looked at.
  uint64_t data_ = 0;
  uint64_t data_end_ = 0;
};

}  // namespace

uint64_t Account::used() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return used_;
}

int64_t Account::weigh(int fd) const {
  struct stat st;
  if (fstat(fd, &st) != 0) return -errno;
  return by_size_ ? static_cast<int64_t>(rounded(static_cast<uint64_t>(st.st_size))) : st.st_blocks * 512;
}

void Account::baseline(uint64_t nodeid, uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  charges_.try_emplace(nodeid, bytes);
}

void Account::settle(uint64_t nodeid, uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto [at, added] = charges_.try_emplace(nodeid, bytes);
  if (added) return;
  used_ = used_ + bytes < at->second ? 0 : used_ + bytes - at->second;
  at->second = bytes;
}

void Account::gone(uint64_t nodeid, uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto at = charges_.find(nodeid);
  const uint64_t charge = at == charges_.end() ? bytes : at->second;
  if (at != charges_.end()) charges_.erase(at);
  used_ -= std::min(used_, charge);
}

void Account::forget(uint64_t nodeid) {
  const std::lock_guard<std::mutex> lock(mutex_);
  charges_.erase(nodeid);
}

bool Account::hold(uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (used_ + held_ + bytes > limit_) return false;
  held_ += bytes;
  return true;
}

void Account::release(uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  held_ -= std::min(held_, bytes);
}

uint64_t Account::need(int fd, uint64_t offset, uint64_t size) const {
  Pages pages(fd, by_size_);
  uint64_t bytes = 0;
  for (uint64_t page = offset / kPage * kPage; page < offset + size; page += kPage) {
    if (!pages.has_room(page)) bytes += kPage;
  }
  return bytes;
}

size_t Account::hold_some(int fd, uint64_t offset, size_t size, uint64_t* held) {
  *held = 0;
  Pages pages(fd, by_size_);
  const uint64_t end = offset + size;
  uint64_t page = offset / kPage * kPage;
  for (; page < end; page += kPage) {
    if (pages.has_room(page)) continue;
    if (!hold(kPage)) break;
    *held += kPage;
  }
  return page <= offset ? 0 : static_cast<size_t>(std::min(page, end) - offset);
}

void Account::baseline_of(uint64_t nodeid, int fd) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (charges_.find(nodeid) != charges_.end()) return;
  }
  const int64_t bytes = weigh(fd);
  if (bytes >= 0) baseline(nodeid, static_cast<uint64_t>(bytes));
}

void Account::note(uint64_t nodeid, int fd) {
  const int64_t bytes = weigh(fd);
  if (bytes >= 0) settle(nodeid, static_cast<uint64_t>(bytes));
}

// ---- for JavaScript: an external value that keeps the account

namespace {

using Held = std::shared_ptr<Account>;

void drop(napi_env, void* data, void*) { delete static_cast<Held*>(data); }

uint64_t bytes_of(Args& args, size_t i) {
  const int64_t value = args.i64(i);
  if (!args.failed() && value < 0) args.wrong(i, "not negative");
  return value < 0 ? 0 : static_cast<uint64_t>(value);
}

// accountOpen(limit, used, bySize)
napi_value open(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const uint64_t limit = bytes_of(args, 0);
  const uint64_t used = bytes_of(args, 1);
  const bool by_size = args.boolean(2);
  if (args.failed()) return args.reject();
  Held* held = new (std::nothrow) Held(std::make_shared<Account>(limit, used, by_size));
  napi_value out = nullptr;
  if (held == nullptr || napi_create_external(env, held, drop, nullptr, &out) != napi_ok) {
    delete held;
    napi_throw_error(env, nullptr, "no memory for an account");
    return nullptr;
  }
  return out;
}

// account(handle, operation, a, b): see src/sys/account.ts, which names the operations.
napi_value operate(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Held account = account_of(args, 0);
  const uint32_t operation = args.u32(1);
  const uint64_t a = bytes_of(args, 2);
  const uint64_t b = bytes_of(args, 3);
  const uint64_t c = bytes_of(args, 4);
  if (args.failed()) return args.reject();
  switch (operation) {
    case 0:
      return integer(env, static_cast<int64_t>(account->used()));
    case 1:
      account->baseline(a, b);
      break;
    case 2:
      account->settle(a, b);
      break;
    case 3:
      account->gone(a, b);
      break;
    case 4:
      account->forget(a);
      break;
    case 5:
      return integer(env, account->hold(a) ? 1 : 0);
    case 6:
      account->release(a);
      break;
    case 7:
      return integer(env, static_cast<int64_t>(account->need(static_cast<int>(a), b, c)));
    default:
      args.wrong(1, "an operation");
      return args.reject();
  }
  return integer(env, 0);
}

}  // namespace

std::shared_ptr<Account> account_of(Args& args, size_t i) {
  void* data = nullptr;
  if (args.failed()) return nullptr;
  napi_valuetype type = napi_undefined;
  napi_typeof(args.env(), args.raw(i), &type);
  if (type != napi_external || napi_get_value_external(args.env(), args.raw(i), &data) != napi_ok || data == nullptr) {
    args.wrong(i, "an account");
    return nullptr;
  }
  return *static_cast<Held*>(data);
}

bool register_account(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "accountOpen", open) && define(env, exports, state, "account", operate);
}

}  // namespace lamina
