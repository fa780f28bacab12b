/** The images that a build stands on and copies from. */
import { formatPlatform, platformFit, type Platform } from '../../oci/index.js'
import type { TransferEvent } from '../image-install.js'
import { pullImage, type RegistryAccess } from '../image-pull.js'
import type { ImageRecord } from '../images.js'
import type { Lease } from '../leases.js'
import type { Store } from '../store.js'
import { causeOf, StoreError } from '../store-error.js'

export interface BaseImageOptions extends RegistryAccess {
  readonly pull?: 'missing' | 'always' | 'never'
  readonly signal?: AbortSignal
  readonly onProgress?: (event: TransferEvent) => void
}

export class BaseImages {
  constructor(
    readonly store: Store,
    readonly lease: Lease,
    readonly options: BaseImageOptions,
  ) {}

  /**
   * A local image, or one of a registry; leased until the build is over.
   * @param wanted asked for by FROM --platform or by the build; undefined: what is here, else the host's
   * @throws StoreError not-found where there is none for that platform
   */
  async find(name: string, wanted: Platform | undefined): Promise<ImageRecord> {
    const { pull = 'missing' } = this.options
    const here = pull === 'always' ? undefined : this.store.images.lookup(name)
    const image = here !== undefined && fits(here, wanted) ? here : await this.#pull(name, wanted, here)
    if (image.chainId !== undefined) this.lease.keepChain(image.chainId)
    return image
  }

  async #pull(
    name: string,
    wanted: Platform | undefined,
    here: ImageRecord | undefined,
  ): Promise<ImageRecord> {
    const { pull, insecure, credentials, signal, onProgress } = this.options
    if (pull === 'never') {
      throw here === undefined
        ? new StoreError('not-found', `image ${name} is not here`, 'pull it, or build without --pull=never')
        : otherPlatform(name, here, wanted)
    }
    let image: ImageRecord
    try {
      image = await pullImage(this.store, name, {
        // The name goes on meaning the image that it means here.
        ...(here === undefined ? {} : { keepName: true }),
        ...(insecure === undefined ? {} : { insecure }),
        ...(credentials === undefined ? {} : { credentials }),
        ...(wanted === undefined ? {} : { platform: wanted }),
        ...(signal === undefined ? {} : { signal }),
        ...(onProgress === undefined ? {} : { onProgress }),
      })
    } catch (error) {
      if (here === undefined || signal?.aborted === true) throw error
      const told = otherPlatform(name, here, wanted)
      throw new StoreError(told.code, told.message, `no registry has it (${causeOf(error)})`)
    }
    if (!fits(image, wanted)) throw otherPlatform(name, image, wanted)
    return image
  }
}

/** What an image does not say of its platform fits any. */
function fits({ os, architecture, variant }: ImageRecord, wanted: Platform | undefined): boolean {
  if (wanted === undefined || os === '' || architecture === '') return true
  return platformFit(wanted, { os, architecture, ...(variant === undefined ? {} : { variant }) }) > 0
}

function otherPlatform(name: string, image: ImageRecord, wanted: Platform | undefined): StoreError {
  const { os, architecture, variant } = image
  const has = formatPlatform({ os, architecture, ...(variant === undefined ? {} : { variant }) })
  const asked = wanted === undefined ? 'another' : formatPlatform(wanted)
  return new StoreError('not-found', `image ${name} is for ${has}, and ${asked} is asked for`)
}
