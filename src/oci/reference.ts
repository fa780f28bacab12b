import { isDigest, type Digest } from './digest.js'
import { OciError } from './error.js'

/**
 * A reference to an image: `[domain/]path[:tag][@digest]`.
 * Source: github.com/distribution/reference, grammar in reference.go and normalize.go (v0.6).
 */
export interface Reference {
  /** `docker.io` unless named. Host and optional port, as it goes into a URL (see `registryHost`). */
  domain: string
  /** `library/debian`. */
  path: string
  tag?: string
  digest?: Digest
}

const domainComponent = '(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])'
const domainPattern = new RegExp(
  `^(?:${domainComponent}(?:\\.${domainComponent})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?$`,
)
const pathPattern = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$/
const tagPattern = /^[\w][\w.-]{0,127}$/
/** Source: reference.go, RepositoryNameTotalLengthMax. */
const maxNameLength = 255

function malformed(text: string, why: string): OciError {
  return new OciError('malformed', `'${text}' is not an image reference: ${why}`)
}

/**
 * `debian` → docker.io/library/debian (no tag); `host:5000/a/b:tag@sha256:…` in full.
 * @throws OciError `malformed`, saying why
 */
export function parseReference(text: string): Reference {
  if (/^[a-f0-9]{64}$/.test(text)) throw malformed(text, 'it is 64 hex digits, which would be an image ID')
  let rest = text
  let digest: Digest | undefined
  const at = rest.indexOf('@')
  if (at !== -1) {
    const value = rest.slice(at + 1)
    if (!isDigest(value)) throw malformed(text, 'after @ there must be sha256: and 64 hex digits')
    digest = value
    rest = rest.slice(0, at)
  }
  let tag: string | undefined
  const colon = rest.lastIndexOf(':')
  if (colon > rest.lastIndexOf('/')) {
    tag = rest.slice(colon + 1)
    rest = rest.slice(0, colon)
    if (!tagPattern.test(tag)) throw malformed(text, 'a tag is letters, digits, _ . - and at most 128 long')
  }
  if (rest === '') throw malformed(text, 'there is no name')
  const { domain, path } = splitDomain(rest)
  if (!domainPattern.test(domain)) throw malformed(text, `'${domain}' is not a registry host`)
  if (path !== path.toLowerCase()) throw malformed(text, 'the name must be lower case')
  if (!pathPattern.test(path)) throw malformed(text, `'${path}' is not a repository name`)
  if (domain.length + 1 + path.length > maxNameLength)
    throw malformed(text, `longer than ${maxNameLength} characters`)
  return { domain, path, ...(tag === undefined ? {} : { tag }), ...(digest === undefined ? {} : { digest }) }
}

/** The first component is a host when it has a dot or a colon, is `localhost`, or has upper case. Source: normalize.go. */
function splitDomain(name: string): { domain: string; path: string } {
  const slash = name.indexOf('/')
  const first = slash === -1 ? '' : name.slice(0, slash)
  const isHost =
    slash !== -1 &&
    (/[.:]/.test(first) || first === 'localhost' || first !== first.toLowerCase() || first.startsWith('['))
  let domain = isHost ? first : 'docker.io'
  let path = isHost ? name.slice(slash + 1) : name
  if (domain === 'index.docker.io') domain = 'docker.io'
  if (domain === 'docker.io' && !path.includes('/')) path = `library/${path}`
  return { domain, path }
}

/** With tag `latest` when there is neither tag nor digest. */
export function withDefaultTag(reference: Reference): Reference {
  return reference.tag === undefined && reference.digest === undefined
    ? { ...reference, tag: 'latest' }
    : reference
}

/** `docker.io/library/debian:12`: complete, the form to store and compare. */
export function formatReference(reference: Reference): string {
  const tag = reference.tag === undefined ? '' : `:${reference.tag}`
  const digest = reference.digest === undefined ? '' : `@${reference.digest}`
  return `${repositoryName(reference)}${tag}${digest}`
}

/** `docker.io/library/debian`: without tag and digest. */
export function repositoryName(reference: Reference): string {
  return `${reference.domain}/${reference.path}`
}

/** `debian:12`: as short as a person would write it. */
export function familiarReference(reference: Reference): string {
  const full = formatReference(reference)
  if (reference.domain !== 'docker.io') return full
  const short = full.slice('docker.io/'.length)
  const bare = reference.path.startsWith('library/') ? short.slice('library/'.length) : short
  // `library/a/b` must not become `a/b`, which means something else
  return reference.path.startsWith('library/') && reference.path.slice('library/'.length).includes('/')
    ? short
    : bare
}

/** The host that serves the registry API for a domain. */
export function registryHost(domain: string): string {
  return domain === 'docker.io' ? 'registry-1.docker.io' : domain
}

/** What a manifest is asked for by: the digest when there is one. */
export function referenceTarget(reference: Reference): string {
  return reference.digest ?? reference.tag ?? 'latest'
}
