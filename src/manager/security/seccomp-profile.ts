/**
 * Profiles of system calls, in the form in which Docker, Podman and containerd read them, and as an OCI runtime wants them.
 * Source: OCI runtime-spec config-linux.md "Seccomp"; docs.docker.com/engine/security/seccomp
 */
import { readFileSync } from 'node:fs'
import { release } from 'node:os'
import { StoreError, causeOf } from '../store-error.js'

export interface SeccompArg {
  readonly index: number
  readonly value: number
  readonly valueTwo?: number
  readonly op: string
}

/** Calls and what becomes of them, where all that `includes` names is there and nothing of `excludes`. */
export interface ProfileRule {
  readonly names: readonly string[]
  readonly action: string
  readonly errnoRet?: number
  readonly args?: readonly SeccompArg[] | null
  readonly includes?: Conditions
  readonly excludes?: Conditions
}

export interface Conditions {
  /** `CAP_…` that the container has. */
  readonly caps?: readonly string[]
  /** As Go calls machines: amd64, arm64. */
  readonly arches?: readonly string[]
  /** `4.8` */
  readonly minKernel?: string
}

export interface Profile {
  readonly defaultAction: string
  readonly defaultErrnoRet?: number
  readonly architectures?: readonly string[]
  readonly archMap?: readonly {
    readonly architecture: string
    readonly subArchitectures?: readonly string[] | null
  }[]
  readonly flags?: readonly string[]
  readonly syscalls?: readonly ProfileRule[] | null
}

/** `linux.seccomp` of config.json. */
export interface LinuxSeccomp {
  readonly defaultAction: string
  readonly defaultErrnoRet?: number
  readonly architectures?: readonly string[]
  readonly flags?: readonly string[]
  readonly syscalls: readonly {
    readonly names: readonly string[]
    readonly action: string
    readonly errnoRet?: number
    readonly args?: readonly SeccompArg[]
  }[]
}

export interface Machine {
  /** As Go calls it. */
  readonly arch: string
  /** `SCMP_ARCH_…` */
  readonly architecture: string
  /** As uname(2) gives it. */
  readonly kernel: string
}

const MACHINES: Readonly<Record<string, readonly [arch: string, architecture: string]>> = {
  x64: ['amd64', 'SCMP_ARCH_X86_64'],
  arm64: ['arm64', 'SCMP_ARCH_AARCH64'],
  ppc64: ['ppc64le', 'SCMP_ARCH_PPC64LE'],
  s390x: ['s390x', 'SCMP_ARCH_S390X'],
  riscv64: ['riscv64', 'SCMP_ARCH_RISCV64'],
}

/** This one. @throws StoreError unsupported */
export function thisMachine(): Machine {
  const known = MACHINES[process.arch]
  if (known !== undefined) return { arch: known[0], architecture: known[1], kernel: release() }
  throw new StoreError(
    'unsupported',
    `no system calls are known for ${process.arch}`,
    'use --security-opt seccomp=unconfined',
  )
}

const ACTIONS = ['ALLOW', 'ERRNO', 'KILL', 'KILL_PROCESS', 'KILL_THREAD', 'TRAP', 'TRACE', 'LOG']
const OPERATORS = ['EQ', 'NE', 'LT', 'LE', 'GT', 'GE', 'MASKED_EQ']
/** Of a profile, in bytes and rules: Docker's has 13,000 and 40. */
const [LONGEST, MOST_RULES] = [1 << 20, 4096]

/** @throws StoreError invalid */
export function readProfile(file: string): Profile {
  try {
    const text = readFileSync(file, 'utf8')
    if (text.length > LONGEST) throw new Error('it is larger than 1 MiB')
    const profile = JSON.parse(text) as Partial<Profile> | null
    if (typeof profile !== 'object' || profile === null) throw new Error('not a JSON object')
    checkAction(profile.defaultAction)
    const rules: unknown = profile.syscalls ?? []
    if (!Array.isArray(rules) || rules.length > MOST_RULES) throw new Error('syscalls is no list of rules')
    for (const rule of rules) checkRule(rule)
    return profile as Profile
  } catch (error) {
    throw new StoreError(
      'invalid',
      `the seccomp profile ${file} cannot be used: ${causeOf(error)}`,
      "it is a JSON file as Docker's default profile, or say seccomp=unconfined",
    )
  }
}

function checkRule(rule: unknown): void {
  if (typeof rule !== 'object' || rule === null) throw new Error('a rule is not an object')
  const { names, action, args } = rule as Partial<ProfileRule> & { readonly name?: string }
  if (!Array.isArray(names) || !names.every(name => typeof name === 'string'))
    throw new Error('a rule has no names')
  checkAction(action)
  for (const arg of args ?? []) {
    if (!OPERATORS.some(op => arg.op === `SCMP_CMP_${op}`))
      throw new Error(`there is no operator ${String(arg.op)}`)
    if (!Number.isInteger(arg.index) || arg.index < 0 || arg.index > 5)
      throw new Error('an argument has no index 0 to 5')
  }
}

function checkAction(action: unknown): void {
  if (!ACTIONS.some(known => action === `SCMP_ACT_${known}`))
    throw new Error(`there is no action ${String(action)}`)
}

/** What of a profile is for a container with these capabilities, on this machine. */
export function resolveProfile(profile: Profile, caps: readonly string[], machine: Machine): LinuxSeccomp {
  const rules = (profile.syscalls ?? []).filter(({ includes, excludes }) => {
    const { caps: needed = [], arches, minKernel } = includes ?? {}
    if (!needed.every(cap => caps.includes(cap))) return false
    if (arches !== undefined && arches.length > 0 && !arches.includes(machine.arch)) return false
    if (minKernel !== undefined && !isAtLeast(machine.kernel, minKernel)) return false
    if (excludes?.caps?.some(cap => caps.includes(cap)) === true) return false
    if (excludes?.arches?.includes(machine.arch) === true) return false
    return excludes?.minKernel === undefined || !isAtLeast(machine.kernel, excludes.minKernel)
  })
  const family = profile.archMap?.find(({ architecture }) => architecture === machine.architecture)
  const architectures =
    profile.architectures ?? (family && [family.architecture, ...(family.subArchitectures ?? [])])
  return {
    defaultAction: profile.defaultAction,
    ...(profile.defaultErrnoRet === undefined ? {} : { defaultErrnoRet: profile.defaultErrnoRet }),
    ...(architectures === undefined ? {} : { architectures }),
    ...(profile.flags === undefined ? {} : { flags: profile.flags }),
    syscalls: rules.map(({ names, action, errnoRet, args }) => ({
      names,
      action,
      ...(errnoRet === undefined ? {} : { errnoRet }),
      ...(args === undefined || args === null || args.length === 0 ? {} : { args }),
    })),
  }
}

function isAtLeast(kernel: string, wanted: string): boolean {
  const [a = 0, b = 0] = kernel.split('.').map(part => Number.parseInt(part, 10))
  const [major = 0, minor = 0] = wanted.split('.').map(Number)
  return a > major || (a === major && b >= minor)
}
