/**
 * The system calls that a container may make: those that Docker allows (docs.docker.com/engine/security/seccomp, Docker 28), by what
 * they are about. All others fail with EPERM. Names are those of every architecture: each takes those that it has.
 */
import type { Profile, ProfileRule, SeccompArg } from './seccomp-profile.js'

const FILES = `
  access faccessat faccessat2 chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32 umask
  open openat openat2 creat close close_range dup dup2 dup3 fcntl fcntl64 flock ioctl
  read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek readahead cachestat
  copy_file_range sendfile sendfile64 splice tee vmsplice fallocate truncate truncate64 ftruncate ftruncate64
  fadvise64 fadvise64_64 sync syncfs fsync fdatasync sync_file_range
  stat stat64 fstat fstat64 lstat lstat64 newfstatat fstatat64 statx statfs statfs64 fstatfs fstatfs64
  getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir link linkat symlink symlinkat readlink readlinkat
  rename renameat renameat2 unlink unlinkat mknod mknodat utime utimes futimesat utimensat utimensat_time64
  getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat
  listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
  name_to_handle_at inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark
  pipe pipe2 memfd_create memfd_secret`

const WAITING = `
  poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64
  epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
  eventfd eventfd2 signalfd signalfd4 io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64
  futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue membarrier rseq set_robust_list get_robust_list`

const MEMORY = `
  brk mmap mmap2 munmap mremap mprotect madvise msync mincore mlock mlock2 mlockall munlock munlockall mseal
  remap_file_pages pkey_alloc pkey_free pkey_mprotect map_shadow_stack`

const PROCESSES = `
  fork vfork execve execveat exit exit_group wait4 waitid waitpid kill tkill tgkill pidfd_open pidfd_send_signal process_mrelease
  getpid getppid gettid getpgid getpgrp getsid setpgid setsid prctl set_tid_address set_thread_area get_thread_area
  getrlimit ugetrlimit setrlimit prlimit64 getrusage getpriority setpriority ioprio_get ioprio_set
  sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
  sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min
  sched_rr_get_interval sched_rr_get_interval_time64 getcpu
  rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn rt_sigsuspend
  rt_sigtimedwait rt_sigtimedwait_time64 sigaltstack sigprocmask sigreturn pause restart_syscall
  seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self uname sysinfo getrandom`

const IDS = `
  getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid getresgid32
  getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32
  setresuid setresuid32 setresgid setresgid32 setgroups setgroups32 setfsuid setfsuid32 setfsgid setfsgid32 capget capset`

const TIME = `
  time times gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep clock_nanosleep_time64
  nanosleep alarm getitimer setitimer adjtimex clock_adjtime clock_adjtime64
  timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
  timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64`

const TALKING = `
  socketpair socketcall bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt
  send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64
  ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget
  mq_open mq_unlink mq_notify mq_getsetattr mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64`

const words = (text: string): string[] => text.split(/\s+/).filter(word => word !== '')

const allow = (names: string, more: Partial<ProfileRule> = {}): ProfileRule => ({
  names: words(names),
  action: 'SCMP_ACT_ALLOW',
  ...more,
})

/** Allowed to who has the capability. */
const withCap = (cap: string, names: string): ProfileRule =>
  allow(names, { includes: { caps: [`CAP_${cap}`] } })
/** Of some architectures only. */
const onArch = (arches: string, names: string): ProfileRule =>
  allow(names, { includes: { arches: words(arches) } })

const arg = (index: number, op: string, value: number, valueTwo?: number): SeccompArg => ({
  index,
  op: `SCMP_CMP_${op}`,
  value,
  ...(valueTwo === undefined ? {} : { valueTwo }),
})

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET: a namespace takes CAP_SYS_ADMIN, user namespaces included. */
const CLONE_NAMESPACES = 0x7e020000
/** Virtual machines' sockets know no namespaces. */
const AF_VSOCK = 40
const ENOSYS = 38
/** PER_LINUX, PER_LINUX32, with and without UNAME26, and the question which it is. */
const PERSONALITIES = [0, 0x8, 0x20000, 0x20008, 0xffffffff]

const noAdmin = { caps: ['CAP_SYS_ADMIN'] }
const S390 = ['s390', 's390x']

export const DEFAULT_PROFILE: Profile = {
  defaultAction: 'SCMP_ACT_ERRNO',
  defaultErrnoRet: 1,
  archMap: [
    { architecture: 'SCMP_ARCH_X86_64', subArchitectures: ['SCMP_ARCH_X86', 'SCMP_ARCH_X32'] },
    { architecture: 'SCMP_ARCH_AARCH64', subArchitectures: ['SCMP_ARCH_ARM'] },
    { architecture: 'SCMP_ARCH_S390X', subArchitectures: ['SCMP_ARCH_S390'] },
    { architecture: 'SCMP_ARCH_PPC64LE' },
    { architecture: 'SCMP_ARCH_RISCV64' },
  ],
  syscalls: [
    allow(FILES + WAITING + MEMORY + PROCESSES + IDS + TIME + TALKING),
    // Before 4.8 ptrace(2) led around the filter.
    allow('ptrace process_vm_readv process_vm_writev', { includes: { minKernel: '4.8' } }),
    allow('socket', { args: [arg(0, 'NE', AF_VSOCK)] }),
    ...PERSONALITIES.map(value => allow('personality', { args: [arg(0, 'EQ', value)] })),
    onArch('ppc64le', 'sync_file_range2 swapcontext'),
    onArch(
      'arm arm64',
      'arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls',
    ),
    onArch('amd64 x32', 'arch_prctl'),
    onArch('amd64 x32 x86', 'modify_ldt'),
    onArch('s390 s390x', 's390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr'),
    onArch('riscv64', 'riscv_flush_icache riscv_hwprobe'),
    withCap('DAC_READ_SEARCH', 'open_by_handle_at'),
    withCap(
      'SYS_ADMIN',
      `bpf clone clone3 unshare setns mount umount umount2 fsopen fsconfig fsmount fspick open_tree move_mount mount_setattr
       statmount listmount fanotify_init lookup_dcookie perf_event_open quotactl quotactl_fd sethostname setdomainname syslog`,
    ),
    allow('clone', {
      args: [arg(0, 'MASKED_EQ', CLONE_NAMESPACES, 0)],
      excludes: { ...noAdmin, arches: S390 },
    }),
    allow('clone', {
      args: [arg(1, 'MASKED_EQ', CLONE_NAMESPACES, 0)],
      includes: { arches: S390 },
      excludes: noAdmin,
    }),
    // Its flags are behind a pointer. C libraries take clone instead where it is not there.
    { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS, excludes: noAdmin },
    withCap('SYS_BOOT', 'reboot'),
    withCap('SYS_CHROOT', 'chroot'),
    withCap('SYS_MODULE', 'init_module finit_module delete_module'),
    withCap('SYS_PACCT', 'acct'),
    withCap('SYS_PTRACE', 'kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace'),
    withCap('SYS_RAWIO', 'iopl ioperm'),
    withCap('SYS_TIME', 'settimeofday stime clock_settime clock_settime64'),
    withCap('SYS_TTY_CONFIG', 'vhangup'),
    withCap('SYS_NICE', 'get_mempolicy set_mempolicy set_mempolicy_home_node mbind'),
    withCap('SYSLOG', 'syslog'),
    withCap('BPF', 'bpf'),
    withCap('PERFMON', 'perf_event_open'),
  ],
}
