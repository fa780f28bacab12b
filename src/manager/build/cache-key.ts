/** What decides whether a cached step still holds. */
import { digestOf, type BuildStep, type CopyStep, type ImageConfig, type Platform } from '../../oci/index.js'
import { selectSources } from './copy-selection.js'
import { sourceDigest } from './source-digest.js'
import type { SourceTree } from './source-tree.js'

/** Changed when the same instruction begins to make other files. */
const VERSION = 'v2'

/** Of what every step depends on, and of what this one reads. */
export function cacheKey(
  chain: string | undefined,
  config: ImageConfig,
  platform: Platform,
  step: BuildStep,
  more: readonly unknown[],
): string {
  return digestOf(
    JSON.stringify([
      VERSION,
      chain ?? 'scratch',
      config.config ?? {},
      `${platform.os}/${platform.architecture}/${platform.variant ?? ''}`,
      step.kind === 'onbuild' ? step.text : step,
      ...more,
    ]),
  )
}

/** The contents that COPY and ADD bring from a context, as they would come. */
export function copiedContents(step: CopyStep, tree: SourceTree): unknown {
  return selectSources(step, tree).map(({ name, path, selection }) => [
    name,
    sourceDigest(tree, path, selection),
  ])
}
