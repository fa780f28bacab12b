import type { Test } from 'tap'
import { buildImage, type BuildOptions } from '../../src/manager/build/build.js'
import { readTree } from '../../src/manager/build/step-box.js'
import type { Store } from '../../src/manager/index.js'
import { parseContainerfile, parseDockerignore } from '../../src/oci/index.js'
import { Bench, run } from './fixture.js'

/** Builds in this process, and what the built trees hold. */
export class BuildBench {
  private constructor(
    readonly bench: Bench,
    readonly store: Store,
  ) {}

  static async open(t: Test): Promise<BuildBench> {
    const bench = new Bench(t)
    const store = await bench.open()
    t.teardown(() => store.close())
    return new BuildBench(bench, store)
  }

  /** @returns `path type mode uid:gid size target` of all in the image, in order, and which steps were cached */
  async build(
    file: string,
    options: Omit<BuildOptions, 'containerfile' | 'ignore'> & { ignore?: string } = {},
  ): Promise<{ tree: string[]; cached: string[]; id: string }> {
    const { ignore, ...more } = options
    const cached: string[] = []
    const image = await buildImage(this.store, {
      ...more,
      ...(ignore === undefined ? {} : { ignore: parseDockerignore(ignore) }),
      containerfile: parseContainerfile(file),
      onStep: step => void (step.state === 'cached' && cached.push(step.text)),
    })
    return { tree: await this.tree(image.id), cached, id: image.id }
  }

  async tree(ref: string): Promise<string[]> {
    const { chainId } = this.store.images.find(ref)
    if (chainId === undefined) return []
    return await readTree(this.store, chainId, path => Promise.resolve(lines(path)))
  }
}

/** Without sizes of directories and links, and without modes of links. */
function lines(dir: string): string[] {
  const found = run('find', [dir, '-mindepth', '1', '-printf', '%P|%y|%m|%U:%G|%s|%l\n'])
  return found
    .split('\n')
    .filter(line => line !== '')
    .map(line => {
      const [path, type, mode, owner, size, target] = line.split('|')
      if (type === 'l') return `${path} l ${owner} -> ${target}`
      return type === 'f' ? `${path} f ${mode} ${owner} ${size}` : `${path} ${type} ${mode} ${owner}`
    })
    .sort()
}
