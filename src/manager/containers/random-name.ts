/** What a container is called whose user did not say. */
import { randomInt } from 'node:crypto'

const MANNERS =
  'bold brisk calm clear crisp deep eager fair fine fond glad keen kind lucid merry neat proud quick quiet sunny swift warm wise'.split(
    ' ',
  )
const STONES =
  'agate amber basalt beryl chalk flint gneiss granite jade jasper marble mica onyx opal pearl quartz ruby schist shale slate topaz tuff'.split(
    ' ',
  )

export function randomName(): string {
  const pick = (words: string[]): string => words[randomInt(words.length)] ?? 'plain'
  return `${pick(MANNERS)}_${pick(STONES)}_${randomInt(1000)}`
}
