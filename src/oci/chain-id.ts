import { digestOf, type Digest } from './digest.js'

/**
 * The identity of a layer together with everything below it. `diffIds` from the lowest up.
 * Source: OCI image-spec config.md, "Layer ChainID".
 */
export function chainId(diffIds: readonly Digest[]): Digest | undefined {
  let chain: Digest | undefined
  for (const diffId of diffIds) chain = nextChainId(chain, diffId)
  return chain
}

export function nextChainId(parent: Digest | undefined, diffId: Digest): Digest {
  return parent === undefined ? diffId : digestOf(`${parent} ${diffId}`)
}

/** The chainID of every layer of the stack, lowest first. */
export function chainIds(diffIds: readonly Digest[]): Digest[] {
  const chain: Digest[] = []
  for (const diffId of diffIds) chain.push(nextChainId(chain.at(-1), diffId))
  return chain
}
