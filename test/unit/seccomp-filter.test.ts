/** What a seccomp filter of ours answers, by a machine for its instructions. */
import { endianness } from 'node:os'
import t from 'tap'
import { DEFAULT_PROFILE } from '../../src/manager/security/default-profile.js'
import { compileFilter } from '../../src/manager/security/seccomp-filter.js'
import { resolveProfile, type LinuxSeccomp } from '../../src/manager/security/seccomp-profile.js'

const ARCH = 0xc000003e
const ALLOW = 0x7fff0000
const errno = (value: number): number => 0x00050000 | value
const [EPERM, ENOSYS] = [1, 38]

interface Instruction {
  readonly code: number
  readonly yes: number
  readonly no: number
  readonly k: number
}

function decode(program: Buffer): Instruction[] {
  const short = (at: number): number => new Uint16Array(program.buffer, program.byteOffset + at, 1)[0] ?? 0
  const long = (at: number): number => new Uint32Array(program.buffer, program.byteOffset + at, 1)[0] ?? 0
  return Array.from({ length: program.length / 8 }, (_, i) => ({
    code: short(8 * i),
    yes: program[8 * i + 2] ?? 0,
    no: program[8 * i + 3] ?? 0,
    k: long(8 * i + 4),
  }))
}

/** As the kernel does it. Source: linux/filter.h; struct seccomp_data */
function answer(program: Buffer, nr: number, args: readonly bigint[] = [], arch = ARCH): number {
  const data = Buffer.alloc(64)
  const little = endianness() === 'LE'
  const put = (value: number, at: number): number =>
    little ? data.writeUInt32LE(value, at) : data.writeUInt32BE(value, at)
  put(nr, 0)
  put(arch, 4)
  for (const [i, value] of args.entries())
    if (little) data.writeBigUInt64LE(value, 16 + 8 * i)
    else data.writeBigUInt64BE(value, 16 + 8 * i)
  const steps = decode(program)
  let a = 0
  for (let at = 0; ; at += 1) {
    const step = steps[at]
    if (step === undefined) throw new Error('past the end')
    const { code, k, yes, no } = step
    if (code === 0x20) a = little ? data.readUInt32LE(k) : data.readUInt32BE(k)
    else if (code === 0x54) a = (a & k) >>> 0
    else if (code === 0x05) at += k
    else if (code === 0x15) at += a === k ? yes : no
    else if (code === 0x25) at += a > k ? yes : no
    else if (code === 0x35) at += a >= k ? yes : no
    else if (code === 0x06) return k
    else throw new Error(`instruction ${code}`)
  }
}

const numbers = {
  read: 0,
  write: 1,
  open: 2,
  close: 3,
  ioctl: 16,
  clone: 56,
  unshare: 272,
  clone3: 435,
  mount: 165,
  keyctl: 250,
}
const compile = (profile: LinuxSeccomp): Buffer => compileFilter(profile, { numbers, auditArch: ARCH })

t.test('a small profile: the architecture is looked at first, then the call', async t => {
  const program = compile({
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: EPERM,
    syscalls: [
      { names: ['read', 'write', 'close', 'nonsense'], action: 'SCMP_ACT_ALLOW' },
      { names: ['open'], action: 'SCMP_ACT_ERRNO', errnoRet: 13 },
      { names: ['ioctl'], action: 'SCMP_ACT_KILL_PROCESS' },
    ],
  })
  t.same(decode(program).slice(0, 3), [
    { code: 0x20, yes: 0, no: 0, k: 4 },
    { code: 0x15, yes: 1, no: 0, k: ARCH },
    { code: 0x06, yes: 0, no: 0, k: errno(ENOSYS) },
  ])
  for (const nr of [0, 1, 3]) t.equal(answer(program, nr), ALLOW)
  t.equal(answer(program, 2), errno(13))
  t.equal(answer(program, 16), 0x80000000)
  t.equal(answer(program, 4), errno(EPERM), 'what it does not name')
  t.equal(answer(program, 17), errno(ENOSYS), 'what is newer than all that it names')
  t.equal(answer(program, 0, [], 0x40000003), errno(ENOSYS), '32 bit')
  t.equal(answer(program, 0x40000000), errno(ENOSYS), 'x32')
})

t.test('arguments have 64 bits, and each operator is as its name', async t => {
  const big = 0x1_0000_0005
  const cases: Readonly<Record<string, readonly [yes: readonly number[], no: readonly number[]]>> = {
    EQ: [[big], [5, big + 1, 0x2_0000_0005]],
    NE: [[5, big + 1, 0x2_0000_0005], [big]],
    GT: [
      [big + 1, 0x2_0000_0000],
      [big, 6],
    ],
    GE: [
      [big, 0x2_0000_0000],
      [big - 1, 6],
    ],
    LT: [
      [big - 1, 6],
      [big, 0x2_0000_0000],
    ],
    LE: [
      [big, 6],
      [big + 1, 0x2_0000_0000],
    ],
  }
  for (const [op, [yes, no]] of Object.entries(cases)) {
    const program = compile({
      defaultAction: 'SCMP_ACT_ERRNO',
      syscalls: [
        {
          names: ['ioctl'],
          action: 'SCMP_ACT_ALLOW',
          args: [{ index: 1, op: `SCMP_CMP_${op}`, value: big }],
        },
      ],
    })
    for (const value of yes) t.equal(answer(program, 16, [0n, BigInt(value)]), ALLOW, `${value} ${op}`)
    for (const value of no)
      t.equal(answer(program, 16, [0n, BigInt(value)]), errno(EPERM), `${value} not ${op}`)
  }
})

t.test("Docker's profile: a namespace takes CAP_SYS_ADMIN, by clone, clone3, unshare or mount", async t => {
  const machine = { arch: 'amd64', architecture: 'SCMP_ARCH_X86_64', kernel: '6.1.0' }
  const [CLONE_VM, SIGCHLD] = [0x100n, 17n]
  const spaces = [0x20000n, 0x2000000n, 0x4000000n, 0x8000000n, 0x10000000n, 0x20000000n, 0x40000000n]
  const plain = compile(resolveProfile(DEFAULT_PROFILE, [], machine))
  t.equal(answer(plain, 56, [CLONE_VM | SIGCHLD]), ALLOW)
  for (const flag of spaces) t.equal(answer(plain, 56, [flag | SIGCHLD]), errno(EPERM), `clone ${flag}`)
  t.equal(answer(plain, 435), errno(ENOSYS), 'clone3: C libraries take clone then')
  for (const nr of [272, 165, 250]) t.equal(answer(plain, nr), errno(EPERM))
  const admin = compile(resolveProfile(DEFAULT_PROFILE, ['CAP_SYS_ADMIN'], machine))
  for (const flag of spaces) t.equal(answer(admin, 56, [flag | SIGCHLD]), ALLOW)
  for (const nr of [435, 272, 165]) t.equal(answer(admin, nr), ALLOW)
  t.equal(answer(admin, 250), errno(EPERM), 'keyctl is nobody’s')
})
