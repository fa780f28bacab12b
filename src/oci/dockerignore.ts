import { createRequire } from 'node:module'
import type Dockerignore from '@balena/dockerignore'
import { toUtf8 } from '../base/bytes.js'

/** Which files of a build context the builder does not see. Patterns: dockerignore(5) of docker, not gitignore's. */
export interface IgnoreRules {
  /** `path` relative to the context, a byte name. */
  ignores(path: string): boolean
  /** An ignored directory need not be walked, unless a `!` pattern may take something in it back. */
  mayContainExceptions: boolean
}

export function parseDockerignore(text: string): IgnoreRules {
  const lines = text
    .replace(/^\ufeff/, '')
    .split('\n')
    // a comment's # is in the first column
    .filter(line => !line.startsWith('#'))
    .map(line => line.trim())
    .filter(line => line !== '' && line !== '!')
    .map(normalPattern)
  // Loaded here, since nothing but a build needs it.
  const dockerignore = createRequire(import.meta.url)('@balena/dockerignore') as typeof Dockerignore.default
  const rules = dockerignore({ ignorecase: false }).add(lines)
  return {
    ignores: path => path !== '' && rules.ignores(toUtf8(path)),
    mayContainExceptions: lines.some(line => line.startsWith('!')),
  }
}

/** As Go's filepath.Clean with the leading slash removed. */
function normalPattern(line: string): string {
  const negated = line.startsWith('!')
  const parts: string[] = []
  for (const part of (negated ? line.slice(1).trim() : line).split('/')) {
    if (part === '' || part === '.') continue
    if (part === '..' && parts.length > 0 && parts.at(-1) !== '..') parts.pop()
    else parts.push(part)
  }
  return `${negated ? '!' : ''}${parts.join('/') || '.'}`
}
