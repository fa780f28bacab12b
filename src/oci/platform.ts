import { OciError } from './error.js'
import { asObject, optionalString, asStrings, type JsonObject } from './json.js'
import type { Descriptor } from './descriptor.js'

/** Source: OCI image-spec image-index.md, "platform". Values are GOOS and GOARCH names. */
export interface Platform extends JsonObject {
  os: string
  architecture: string
  variant?: string
  'os.version'?: string
  'os.features'?: string[]
}

const archOfNode: Readonly<Record<string, readonly [architecture: string, variant?: string]>> = {
  x64: ['amd64'],
  arm64: ['arm64'],
  arm: ['arm', 'v7'],
  ia32: ['386'],
  ppc64: ['ppc64le'],
  s390x: ['s390x'],
  riscv64: ['riscv64'],
  loong64: ['loong64'],
  mips: ['mips'],
  mipsel: ['mipsle'],
}

/** Other names people and `uname -m` use. Source: containerd platforms, database.go. */
const archAliases: Readonly<Record<string, readonly [architecture: string, variant?: string]>> = {
  x86_64: ['amd64'],
  'x86-64': ['amd64'],
  i386: ['386'],
  i486: ['386'],
  i586: ['386'],
  i686: ['386'],
  aarch64: ['arm64'],
  armhf: ['arm', 'v7'],
  armel: ['arm', 'v6'],
  armv7l: ['arm', 'v7'],
  armv6l: ['arm', 'v6'],
}

export function hostPlatform(): Platform {
  const [architecture, variant] = archOfNode[process.arch] ?? [process.arch]
  return normalizePlatform({
    os: process.platform,
    architecture,
    ...(variant === undefined ? {} : { variant }),
  })
}

/** One spelling for each machine: arm64/v8 is arm64, amd64/v1 is amd64, arm without a variant is arm/v7. */
export function normalizePlatform(platform: Platform): Platform {
  const [architecture, aliasVariant] = archAliases[platform.architecture.toLowerCase()] ?? [
    platform.architecture.toLowerCase(),
  ]
  let variant = platform.variant?.toLowerCase() || aliasVariant
  if (variant !== undefined && /^\d/.test(variant)) variant = `v${variant}`
  if (architecture === 'arm64' && (variant === 'v8' || variant === 'v8.0')) variant = undefined
  if (architecture === 'amd64' && variant === 'v1') variant = undefined
  if (architecture === 'arm' && variant === undefined) variant = 'v7'
  const { variant: _dropped, ...rest } = platform
  const os = platform.os.toLowerCase() === 'macos' ? 'darwin' : platform.os.toLowerCase()
  return { ...rest, os, architecture, ...(variant === undefined ? {} : { variant }) }
}

/**
 * `linux/arm64`, `linux/arm/v7`, `arm64`, `linux`: what `--platform` takes. A missing part is the host's.
 * @throws OciError `malformed`
 */
export function parsePlatform(text: string): Platform {
  const parts = text.split('/')
  if (parts.length > 3 || parts.some(part => !/^\w[\w.-]*$/.test(part))) {
    throw new OciError(
      'malformed',
      `'${text}' is not a platform; write os/arch or os/arch/variant, e.g. linux/arm64`,
    )
  }
  const host = hostPlatform()
  const [first = '', second, variant] = parts
  if (second === undefined) {
    const knownOs = [
      'linux',
      'windows',
      'darwin',
      'macos',
      'freebsd',
      'netbsd',
      'openbsd',
      'wasi',
      'js',
      'android',
    ]
    if (knownOs.includes(first.toLowerCase())) return normalizePlatform({ ...host, os: first })
    return normalizePlatform({ os: host.os, architecture: first })
  }
  return normalizePlatform({ os: first, architecture: second, ...(variant === undefined ? {} : { variant }) })
}

export function formatPlatform(platform: Platform): string {
  const { os, architecture, variant } = normalizePlatform(platform)
  return variant === undefined ? `${os}/${architecture}` : `${os}/${architecture}/${variant}`
}

export function readPlatform(value: unknown, what: string): Platform | undefined {
  if (value === undefined || value === null) return undefined
  const object = asObject(value, what)
  const variant = optionalString(object['variant'], `${what}.variant`, 128)
  const osVersion = optionalString(object['os.version'], `${what}.os.version`, 128)
  return {
    ...object,
    os: optionalString(object['os'], `${what}.os`, 128) ?? '',
    architecture: optionalString(object['architecture'], `${what}.architecture`, 128) ?? '',
    ...(variant === undefined ? {} : { variant }),
    ...(osVersion === undefined ? {} : { 'os.version': osVersion }),
    ...(object['os.features']
      ? { 'os.features': asStrings(object['os.features'], 64, `${what}.os.features`) }
      : {}),
  }
}

/**
 * How well a machine of platform `wanted` runs something made for `offered`: 0 not at all, higher is better.
 * arm runs lower variants (v7 runs v6 and v5); amd64/vN runs all below N.
 */
export function platformFit(wanted: Platform, offered: Platform): number {
  const w = normalizePlatform(wanted)
  const o = normalizePlatform(offered)
  if (w.os !== o.os || w.architecture !== o.architecture) return 0
  if (w['os.version'] !== undefined && o['os.version'] !== undefined && w['os.version'] !== o['os.version'])
    return 0
  if (w.variant === o.variant) return 1000
  const level = (variant: string | undefined, none: number): number => {
    const match = /^v(\d+)/.exec(variant ?? '')
    return match ? Number(match[1]) : none
  }
  const base = w.architecture === 'arm64' ? 8 : 1
  const wantedLevel = level(w.variant, base)
  const offeredLevel = level(o.variant, base)
  return offeredLevel <= wantedLevel ? 100 + offeredLevel : 0
}

/**
 * The descriptor of an index that fits `wanted` best; of equals the first, as the spec says.
 * An entry without a platform fits anything, worse than any real match.
 * @throws OciError `not-found`, naming what there is
 */
export function choosePlatform(descriptors: readonly Descriptor[], wanted: Platform): Descriptor {
  let best: Descriptor | undefined
  let bestFit = 0
  for (const descriptor of descriptors) {
    // buildkit's attestations are stored as manifests for unknown/unknown
    if (descriptor.annotations?.['vnd.docker.reference.type'] === 'attestation-manifest') continue
    const fit = descriptor.platform === undefined ? 1 : platformFit(wanted, descriptor.platform)
    if (fit > bestFit) {
      best = descriptor
      bestFit = fit
    }
  }
  if (best) return best
  const offered = descriptors.flatMap(d =>
    d.platform && d.platform.os !== 'unknown' ? [formatPlatform(d.platform)] : [],
  )
  const list = [...new Set(offered)].slice(0, 20).join(', ') || 'none'
  throw new OciError('not-found', `no image for ${formatPlatform(wanted)} in the index; it has: ${list}`)
}
