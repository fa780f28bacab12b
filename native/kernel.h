// Kernel interfaces that Debian 12's headers (Linux 6.1, glibc 2.36) and older ones do not declare.
// Syscall numbers from 424 on are the same on x86_64 and arm64 (asm-generic/unistd.h).
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "Lamina supports x86_64 and arm64"
#endif

namespace lamina {

inline constexpr long kSysOpenTree = 428;
inline constexpr long kSysMoveMount = 429;
inline constexpr long kSysFsopen = 430;
inline constexpr long kSysFsconfig = 431;
inline constexpr long kSysFsmount = 432;
inline constexpr long kSysOpenat2 = 437;
inline constexpr long kSysMountSetattr = 442;
inline constexpr long kSysFchmodat2 = 452;
inline constexpr long kSysSetxattrat = 463;
inline constexpr long kSysGetxattrat = 464;
inline constexpr long kSysListxattrat = 465;
inline constexpr long kSysRemovexattrat = 466;

// linux/openat2.h
struct open_how {
  uint64_t flags;
  uint64_t mode;
  uint64_t resolve;
};
static_assert(sizeof(open_how) == 24);
inline constexpr uint64_t kResolveCached = 0x20;

// linux/xattr.h, Linux 6.13
struct xattr_args {
  uint64_t value;
  uint32_t size;
  uint32_t flags;
};
static_assert(sizeof(xattr_args) == 16);

// linux/mount.h
struct mount_attr {
  uint64_t attr_set;
  uint64_t attr_clr;
  uint64_t propagation;
  uint64_t userns_fd;
};
static_assert(sizeof(mount_attr) == 32);

// linux/fs.h, Linux 6.9
struct fsuuid2 {
  uint8_t len;
  uint8_t uuid[16];
};
static_assert(sizeof(fsuuid2) == 17);
inline constexpr unsigned long kFsIocGetFsUuid = 0x80111500;  // _IOR(0x15, 0, struct fsuuid2)
inline constexpr unsigned long kFiclone = 0x40049409;         // _IOW(0x94, 9, int)

// linux/stat.h
struct statx_timestamp {
  int64_t tv_sec;
  uint32_t tv_nsec;
  int32_t reserved;
};
struct statx {
  uint32_t stx_mask;
  uint32_t stx_blksize;
  uint64_t stx_attributes;
  uint32_t stx_nlink;
  uint32_t stx_uid;
  uint32_t stx_gid;
  uint16_t stx_mode;
  uint16_t spare0;
  uint64_t stx_ino;
  uint64_t stx_size;
  uint64_t stx_blocks;
  uint64_t stx_attributes_mask;
  statx_timestamp stx_atime;
  statx_timestamp stx_btime;
  statx_timestamp stx_ctime;
  statx_timestamp stx_mtime;
  uint32_t stx_rdev_major;
  uint32_t stx_rdev_minor;
  uint32_t stx_dev_major;
  uint32_t stx_dev_minor;
  uint64_t stx_mnt_id;
  uint32_t stx_dio_mem_align;
  uint32_t stx_dio_offset_align;
  uint64_t spare[12];
};
static_assert(sizeof(struct statx) == 256);
inline constexpr uint32_t kStatxBasicStats = 0x7ff;
inline constexpr uint32_t kStatxBtime = 0x800;
inline constexpr uint32_t kStatxMntId = 0x1000;

// linux/dirent.h
struct linux_dirent64 {
  uint64_t d_ino;
  int64_t d_off;
  uint16_t d_reclen;
  uint8_t d_type;
  char d_name[1];
};

// "/proc/self/fd/N": the object behind a descriptor, O_PATH ones too, without following a symlink that it is.
class ProcFd {
 public:
  explicit ProcFd(int fd) { snprintf(path_, sizeof path_, "/proc/self/fd/%d", fd); }
  const char* c_str() const { return path_; }

 private:
  char path_[32];
};

// A descriptor that is closed at the end of the scope.
class ScopedFd {
 public:
  explicit ScopedFd(int fd) : fd_(fd) {}
  ~ScopedFd() {
    if (fd_ >= 0) close(fd_);
  }
  ScopedFd(const ScopedFd&) = delete;
  ScopedFd& operator=(const ScopedFd&) = delete;
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }

 private:
  int fd_;
};

}  // namespace lamina
