import t from 'tap'
import * as lamina from '../../src/index.js'

/** What a caller without TypeScript may write. */
const wrongly = (options: object): never => options as never
const nothing = undefined as never

const request = { lower: ['/nowhere'], mountpoint: '/nowhere/mnt' }
const mounts: [what: object, said: string][] = [
  [{ mountOptions: 'nosiud' }, 'unknown option: nosiud (did you mean nosuid?)'],
  [{ mountOptions: 'ro,xinoo=on' }, 'unknown option: xinoo=on (did you mean xino?)'],
  [{ mountOptions: 'xino=onn' }, 'option xino=onn: expected one of off, auto, on (did you mean on?)'],
  [{ mountOptions: 'a\nb' }, 'unknown option: a?b'],
  [{ options: { bogus: 1 } }, 'unknown option: bogus'],
  [{ options: { redirectdir: 'on' } }, 'unknown option: redirectdir (did you mean redirectDir?)'],
  [
    { options: { io: 'passtrough' } },
    'option io: "passtrough": expected one of auto, cached, passthrough (did you mean passthrough?)',
  ],
  [{ options: { volatile: 'yes' } }, 'option volatile: "yes": expected a boolean'],
  [{ detachd: true }, 'unknown option: detachd (did you mean detached?)'],
]
for (const [what, message] of mounts) {
  t.test(`mount(${JSON.stringify(what)}) names what is wrong`, async t => {
    await t.rejects(lamina.mount(wrongly({ ...request, ...what })), {
      constructor: lamina.OptionError,
      message,
    })
  })
}

const calls: [name: string, call: () => Promise<unknown>, message: string][] = [
  [
    'Store.open',
    () => lamina.Store.open(wrongly({ rot: '/x' })),
    'Store.open: unknown option: rot (did you mean root?)',
  ],
  [
    'pullImage',
    () => lamina.pullImage(nothing, 'x', wrongly({ insecur: true })),
    'pullImage: unknown option: insecur (did you mean insecure?)',
  ],
  [
    'pushImage',
    () => lamina.pushImage(nothing, 'x', wrongly({ compresion: 'gzip' })),
    'pushImage: unknown option: compresion (did you mean compression?)',
  ],
  [
    'loadImages',
    () => lamina.loadImages(nothing, 'x', wrongly({ nmae: 'a' })),
    'loadImages: unknown option: nmae (did you mean name?)',
  ],
  [
    'saveToDirectory',
    () => lamina.saveToDirectory(nothing, [], 'x', wrongly({ bogus: 1 })),
    'saveToDirectory: unknown option: bogus',
  ],
  [
    'saveImages',
    () => lamina.saveImages(nothing, [], wrongly({ fromat: 'x' })).next(),
    'saveImages: unknown option: fromat (did you mean format?)',
  ],
  [
    'importRootfs',
    () => lamina.importRootfs(nothing, nothing, wrongly({ autor: 'x' })),
    'importRootfs: unknown option: autor (did you mean author?)',
  ],
  [
    'commitContainer',
    () => lamina.commitContainer(nothing, 'x', wrongly({ change: [] })),
    'commitContainer: unknown option: change (did you mean changes?)',
  ],
  [
    'commitUpper',
    () => lamina.commitUpper(nothing, 'x', undefined, wrongly({ coment: '' })),
    'commitUpper: unknown option: coment (did you mean comment?)',
  ],
  [
    'buildImage',
    () => lamina.buildImage(nothing, wrongly({ contxt: '.' })),
    'buildImage: unknown option: contxt (did you mean context?)',
  ],
  [
    'backupVolume',
    () => lamina.backupVolume(nothing, 'x', wrongly({ alive: true })).next(),
    'backupVolume: unknown option: alive (did you mean live?)',
  ],
  [
    'cloneVolume',
    () => lamina.cloneVolume(nothing, 'x', 'y', wrongly({ freez: true })),
    'cloneVolume: unknown option: freez (did you mean freeze?)',
  ],
  [
    'restoreVolume',
    () => lamina.restoreVolume(nothing, nothing, 'x', wrongly({ sise: '1g' })),
    'restoreVolume: unknown option: sise (did you mean size?)',
  ],
  [
    'checkStore',
    () => lamina.checkStore(nothing, wrongly({ repare: true })),
    'checkStore: unknown option: repare (did you mean repair?)',
  ],
  [
    'pruneSystem',
    () => lamina.pruneSystem(nothing, wrongly({ dryrun: true })),
    'pruneSystem: unknown option: dryrun (did you mean dryRun?)',
  ],
  [
    'createContainer',
    () => lamina.createContainer(nothing, wrongly({ readonly: true })),
    'createContainer: unknown option: readonly (did you mean readOnly?)',
  ],
  [
    'removeContainer',
    () => lamina.removeContainer(nothing, 'x', wrongly({ volume: true })),
    'removeContainer: unknown option: volume (did you mean volumes?)',
  ],
  [
    'pruneContainers',
    () => lamina.pruneContainers(nothing, wrongly({ dry: true })),
    'pruneContainers: unknown option: dry',
  ],
]
for (const [name, call, message] of calls) {
  t.test(`${name} names an option that does not exist`, async t => {
    await t.rejects(call(), { constructor: lamina.StoreError, code: 'invalid', message })
  })
}
