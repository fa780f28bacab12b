// Who makes a file is its owner, and its mode is masked as that one wants.
#pragma once

#include <sys/types.h>

namespace lamina {

// As long as it lives, what this thread creates belongs to uid:gid and is masked with `mask`; all effective capabilities are kept, so
// permissions are still the daemon's. asCreator (src/sys/cred.ts) is the same for JavaScript; one must not be used within the other.
class AsCreator {
 public:
  AsCreator(uid_t uid, gid_t gid, mode_t mask);
  ~AsCreator();
  AsCreator(const AsCreator&) = delete;
  AsCreator& operator=(const AsCreator&) = delete;

  // False, and nothing is changed: an id is not mapped in this user namespace, or may not be taken.
  bool ok() const { return ok_; }

 private:
  bool ok_ = false;
  bool switched_ = false;
  mode_t mask_ = 0;
  mode_t old_mask_ = 0;
};

}  // namespace lamina
