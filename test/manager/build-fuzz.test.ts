import t from 'tap'
import { fuzzBuild } from '../fuzz/build.js'
import { isRoot, lacking } from './fixture.js'

/** A short run of `npm run fuzz:build`: random Containerfiles make the trees that Buildah makes. */
void t.test(
  'random COPY, ADD, WORKDIR and USER',
  { skip: !isRoot ? 'needs root' : (lacking('buildah') ?? false) },
  async t => {
    const different: string[] = []
    const counts = await fuzzBuild({ files: 15, seed: 7, onDifference: text => different.push(text) })
    t.same(different, [])
    const both = 15 - (counts.get('failed in both') ?? 0)
    t.ok(both >= 5, `trees of both were compared: ${[...counts].join(' ')}`)
  },
)
