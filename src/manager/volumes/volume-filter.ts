import { didYouMean } from '../../base/nearest.js'
import { StoreError } from '../store-error.js'

/** A condition of `ls` and `prune`. */
export type VolumeFilter =
  | { readonly kind: 'name'; readonly part: string }
  | {
      readonly kind: 'label'
      readonly key: string
      readonly value: string | undefined
      readonly not: boolean
    }
  | { readonly kind: 'dangling'; readonly wanted: boolean }
  | { readonly kind: 'driver'; readonly name: string }

/** `label=a=b`, `label!=a`, `name=web`, `dangling=true`, `driver=local`. @throws StoreError invalid */
export function parseVolumeFilter(text: string): VolumeFilter {
  const match = /^(label!|label|name|dangling|driver)=(.*)$/s.exec(text)
  const [, kind = '', value = ''] = match ?? []
  switch (kind) {
    case 'name':
      return { kind, part: value }
    case 'driver':
      return { kind, name: value }
    case 'dangling':
      if (/^(true|1)$/.test(value)) return { kind, wanted: true }
      if (/^(false|0)$/.test(value)) return { kind, wanted: false }
      break
    case 'label':
    case 'label!': {
      const equals = value.indexOf('=')
      const [key, wanted] =
        equals < 0 ? [value, undefined] : [value.slice(0, equals), value.slice(equals + 1)]
      return { kind: 'label', key, value: wanted, not: kind === 'label!' }
    }
  }
  const [key = ''] = text.split('=')
  throw new StoreError(
    'invalid',
    `--filter ${text} is not understood${kind === '' ? didYouMean(key, ['label', 'label!', 'name', 'dangling', 'driver']) : ''}`,
    'label=KEY[=VALUE], label!=KEY, name=PART, dangling=true|false, driver=local',
  )
}
