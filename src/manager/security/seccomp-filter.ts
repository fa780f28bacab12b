/**
 * A profile as a program for the kernel, where no OCI runtime makes one. Calls of other architectures (32-bit programs) fail with ENOSYS.
 * Source: linux/seccomp.h, linux/filter.h, seccomp(2)
 */
import { endianness } from 'node:os'
import * as sys from '../../sys/index.js'
import { StoreError } from '../store-error.js'
import type { LinuxSeccomp, SeccompArg } from './seccomp-profile.js'

/** BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND, BPF_JMP|…, BPF_RET; all with a constant. */
const [LOAD, AND, JUMP, EQUAL, GREATER, AT_LEAST, RETURN] = [0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06]
/** Of struct seccomp_data. */
const [NR_AT, ARCH_AT, ARGS_AT] = [0, 4, 16]
/** x32 numbers its calls from here on, with the architecture of x86-64. */
const X32 = 0x40000000
const [ENOSYS, EPERM] = [38, 1]
/** BPF_MAXINSNS */
const LONGEST = 4096

/** What headers may be too old for; from 424 on all architectures count alike. Source: scripts/syscall.tbl */
const NEWER: Readonly<Record<string, number>> = {
  cachestat: 451,
  fchmodat2: 452,
  map_shadow_stack: 453,
  futex_wake: 454,
  futex_wait: 455,
  futex_requeue: 456,
  statmount: 457,
  listmount: 458,
  mseal: 462,
  setxattrat: 463,
  getxattrat: 464,
  listxattrat: 465,
  removexattrat: 466,
}

export interface Calls {
  readonly numbers: Readonly<Record<string, number>>
  /** AUDIT_ARCH_* */
  readonly auditArch: number
}

/** Where a jump goes: so many instructions on, or to the end of a rule. */
type Target = number | 'next' | 'done'
interface Step {
  readonly code: number
  readonly k: number
  readonly yes: Target
  readonly no: Target
}

const step = (code: number, k: number, yes: Target = 0, no: Target = 0): Step => ({
  code,
  k: k >>> 0,
  yes,
  no,
})

/**
 * An array of struct sock_filter.
 * @throws StoreError unsupported: this machine's calls are not known, or the profile is too large
 */
export function compileFilter(profile: LinuxSeccomp, calls: Calls = sys.syscalls()): Buffer {
  if (calls.auditArch === 0) {
    throw new StoreError(
      'unsupported',
      `without a runtime there is no seccomp filter for ${process.arch}`,
      'install crun or runc, or use --security-opt seccomp=unconfined',
    )
  }
  const otherwise = actionOf(profile.defaultAction, profile.defaultErrnoRet)
  const rules = rulesByNumber(profile, { ...NEWER, ...calls.numbers })
  const steps = [
    step(LOAD, ARCH_AT),
    step(EQUAL, calls.auditArch, 1, 0),
    step(RETURN, errno(ENOSYS)),
    step(LOAD, NR_AT),
    step(AT_LEAST, X32, 0, 1),
    step(RETURN, errno(ENOSYS)),
  ]
  const plain = new Map<number, number[]>()
  for (const [number, alternatives] of rules) {
    const sure = alternatives.find(({ args }) => args.length === 0)
    if (sure !== undefined) {
      plain.set(sure.action, [...(plain.get(sure.action) ?? []), number])
      continue
    }
    const body = alternatives.flatMap(({ action, args }) => ruleSteps(args, action))
    body.push(step(RETURN, otherwise))
    steps.push(step(EQUAL, number, 1, 0), step(JUMP, body.length), ...body)
  }
  for (const [action, numbers] of plain)
    for (const range of ranges(numbers)) steps.push(...rangeSteps(range, action))
  // As libseccomp's users have it: what is newer than the profile is not there, rather than forbidden.
  const newest = Math.max(...rules.keys())
  if (profile.defaultAction === 'SCMP_ACT_ERRNO')
    steps.push(step(GREATER, newest, 0, 1), step(RETURN, errno(ENOSYS)))
  steps.push(step(RETURN, otherwise))
  if (steps.length > LONGEST) {
    throw new StoreError(
      'unsupported',
      'the seccomp profile is too large for the kernel',
      'use one with fewer rules',
    )
  }
  return encode(steps)
}

interface Alternative {
  readonly action: number
  readonly args: readonly SeccompArg[]
}

/** Rules that do what happens anyway say nothing. */
function rulesByNumber(profile: LinuxSeccomp, numbers: Calls['numbers']): Map<number, Alternative[]> {
  const rules = new Map<number, Alternative[]>()
  for (const { names, action, errnoRet, args = [] } of profile.syscalls) {
    for (const name of names) {
      const number = Object.hasOwn(numbers, name) ? numbers[name] : undefined
      // Of another architecture.
      if (number === undefined) continue
      rules.set(number, [...(rules.get(number) ?? []), { action: actionOf(action, errnoRet), args }])
    }
  }
  return rules
}

function actionOf(name: string, value = EPERM): number {
  switch (name) {
    case 'SCMP_ACT_ALLOW':
      return 0x7fff0000
    case 'SCMP_ACT_ERRNO':
      return errno(value)
    case 'SCMP_ACT_KILL':
    case 'SCMP_ACT_KILL_THREAD':
      return 0
    case 'SCMP_ACT_KILL_PROCESS':
      return 0x80000000
    case 'SCMP_ACT_TRAP':
      return 0x00030000
    case 'SCMP_ACT_TRACE':
      return 0x7ff00000 | (value & 0xffff)
    case 'SCMP_ACT_LOG':
      return 0x7ffc0000
    default:
      throw new StoreError('unsupported', `seccomp action ${name} needs crun or runc`)
  }
}

function errno(value: number): number {
  return 0x00050000 | (value & 0xffff)
}

/** Consecutive numbers as pairs of the first and the last. */
function ranges(numbers: readonly number[]): [first: number, last: number][] {
  const found: [number, number][] = []
  for (const number of [...numbers].sort((a, b) => a - b)) {
    const last = found.at(-1)
    if (last !== undefined && number <= last[1] + 1) last[1] = number
    else found.push([number, number])
  }
  return found
}

function rangeSteps([first, last]: [number, number], action: number): Step[] {
  if (first === last) return [step(EQUAL, first, 0, 1), step(RETURN, action)]
  return [step(AT_LEAST, first, 0, 2), step(GREATER, last, 1, 0), step(RETURN, action)]
}

/** All arguments as wanted: the action. Else what follows. */
function ruleSteps(args: readonly SeccompArg[], action: number): Step[] {
  const parts = args.map(comparison)
  const total = parts.reduce((sum, part) => sum + part.length, 0)
  const steps: Step[] = []
  for (const part of parts) {
    const end = steps.length + part.length
    for (const { code, k, yes, no } of part) {
      const here = steps.length + 1
      // `done`: this argument is as wanted. `next`: the rule does not hold, past its return.
      const at = (target: Target): number =>
        target === 'done' ? end - here : target === 'next' ? total + 1 - here : target
      steps.push({ code, k, yes: at(yes), no: at(no) })
    }
  }
  return [...steps, step(RETURN, action)]
}

/** Arguments have 64 bits, registers 32. */
function comparison({ index, op, value, valueTwo = 0 }: SeccompArg): Step[] {
  const little = endianness() === 'LE' ? 0 : 4
  const low = step(LOAD, ARGS_AT + 8 * index + little)
  const high = step(LOAD, ARGS_AT + 8 * index + 4 - little)
  const [valueHigh, valueLow] = halves(value)
  switch (op) {
    case 'SCMP_CMP_EQ':
      return [high, step(EQUAL, valueHigh, 0, 'next'), low, step(EQUAL, valueLow, 0, 'next')]
    case 'SCMP_CMP_NE':
      return [high, step(EQUAL, valueHigh, 0, 'done'), low, step(EQUAL, valueLow, 'next', 0)]
    case 'SCMP_CMP_MASKED_EQ': {
      // Here `value` is the mask.
      const [wantedHigh, wantedLow] = halves(valueTwo)
      return [
        ...[high, step(AND, valueHigh), step(EQUAL, wantedHigh, 0, 'next')],
        ...[low, step(AND, valueLow), step(EQUAL, wantedLow, 0, 'next')],
      ]
    }
    case 'SCMP_CMP_GT':
    case 'SCMP_CMP_GE':
      return [
        ...[high, step(GREATER, valueHigh, 'done', 0), step(EQUAL, valueHigh, 0, 'next')],
        ...[low, step(op === 'SCMP_CMP_GT' ? GREATER : AT_LEAST, valueLow, 0, 'next')],
      ]
    case 'SCMP_CMP_LT':
    case 'SCMP_CMP_LE':
      return [
        ...[high, step(GREATER, valueHigh, 'next', 0), step(EQUAL, valueHigh, 0, 'done')],
        ...[low, step(op === 'SCMP_CMP_LE' ? GREATER : AT_LEAST, valueLow, 'next', 0)],
      ]
    default:
      throw new StoreError('invalid', `there is no seccomp operator ${op}`)
  }
}

const halves = (value: number): [high: number, low: number] => [
  Math.floor(value / 2 ** 32) >>> 0,
  value >>> 0,
]

function encode(steps: readonly Step[]): Buffer {
  const bytes = Buffer.alloc(8 * steps.length)
  const words = new Uint16Array(bytes.buffer, bytes.byteOffset, 4 * steps.length)
  const longs = new Uint32Array(bytes.buffer, bytes.byteOffset, 2 * steps.length)
  for (const [index, { code, k, yes, no }] of steps.entries()) {
    words[4 * index] = code
    bytes[8 * index + 2] = Number(yes)
    bytes[8 * index + 3] = Number(no)
    longs[2 * index + 1] = k
  }
  return bytes
}
