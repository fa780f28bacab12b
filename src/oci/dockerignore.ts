import { cleanPath, PathPatterns } from './path-patterns.js'

/**
 * Which files of a build context the builder does not see: those that match.
 * Source: moby/patternmatcher/ignorefile.
 * @throws OciError malformed
 */
export function parseDockerignore(text: string): PathPatterns {
  const lines = text
    .replace(/^\ufeff/, '')
    .split('\n')
    // a comment's # is in the first column
    .filter(line => !line.startsWith('#'))
    .map(line => line.trim())
    .filter(line => line !== '' && line !== '!')
    .map(line => (line.startsWith('!') ? `!${cleanPath(line.slice(1))}` : cleanPath(line)))
  return new PathPatterns(lines)
}
