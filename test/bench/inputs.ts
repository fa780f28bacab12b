import fs from 'node:fs'
import path from 'node:path'
import { run } from './tool.js'

/** The trees that workloads run on. The same bytes every time: nothing in them is random. */

const LINE = 'the quick brown fox jumps over the lazy dog, and the dog does not mind at all\n'

/** Text of about that many bytes, another one for every `seed`. */
export function text(bytes: number, seed: number): string {
  return `${seed}\n${LINE.repeat(Math.ceil(bytes / LINE.length))}`.slice(0, bytes)
}

/** Relative names of a tree of `files` files, 100 in a directory, 10 directories in a directory. */
export function treeNames(files: number): string[] {
  const names: string[] = []
  for (let i = 0; i < files; i++) {
    const directory = Math.floor(i / 100)
    names.push(`d${Math.floor(directory / 10)}/e${directory % 10}/file${i % 100}`)
  }
  return names
}

/** Makes the tree. @param bytes size of each file */
export function makeTree(root: string, files: number, bytes: number): string[] {
  const names = treeNames(files)
  let made = ''
  names.forEach((name, i) => {
    const parent = path.dirname(name)
    if (parent !== made) fs.mkdirSync(path.join(root, (made = parent)), { recursive: true })
    fs.writeFileSync(path.join(root, name), bytes === 0 ? '' : text(bytes, i))
  })
  return names
}

/** Makes the tree, and a list of its files for loop.ts. */
export function makeListedTree(root: string, list: string, files: number, bytes: number): void {
  fs.writeFileSync(list, makeTree(root, files, bytes).join('\n'))
}

/** A file with data in every block. */
export function makeFile(file: string, mebibytes: number): void {
  const block = Buffer.from(text(1 << 20, mebibytes))
  const fd = fs.openSync(file, 'w')
  for (let i = 0; i < mebibytes; i++) fs.writeSync(fd, block)
  fs.closeSync(fd)
}

/** Environment of git that depends on nobody's settings. */
export const GIT = {
  GIT_CONFIG_NOSYSTEM: '1',
  GIT_CONFIG_GLOBAL: '/dev/null',
  GIT_AUTHOR_NAME: 'bench',
  GIT_AUTHOR_EMAIL: 'bench@example.org',
  GIT_COMMITTER_NAME: 'bench',
  GIT_COMMITTER_EMAIL: 'bench@example.org',
  GIT_CONFIG_COUNT: '2',
  GIT_CONFIG_KEY_0: 'gc.auto',
  GIT_CONFIG_VALUE_0: '0',
  GIT_CONFIG_KEY_1: 'safe.directory',
  GIT_CONFIG_VALUE_1: '*',
}

/** A repository of `files` files with two branches that differ in a quarter of them; `main` is checked out. */
export function makeRepository(root: string, files: number): void {
  const git = (...args: string[]): string => run('git', ['-C', root, ...args], { env: GIT })
  run('git', ['init', '-q', '-b', 'main', root], { env: GIT })
  const names = makeTree(root, files, 1500)
  git('add', '-A')
  git('commit', '-q', '-m', 'first')
  git('checkout', '-q', '-b', 'other')
  names.forEach((name, i) => {
    if (i % 8 === 0) fs.appendFileSync(path.join(root, name), 'changed\n')
    else if (i % 16 === 1) fs.unlinkSync(path.join(root, name))
    else if (i % 16 === 2) fs.writeFileSync(path.join(root, `${name}.new`), text(1500, i + files))
  })
  git('add', '-A')
  git('commit', '-q', '-m', 'second')
  git('checkout', '-q', 'main')
  git('gc', '-q')
}

/** A project whose dependencies are archives beside it, and its lock file. */
export function makeNpmProject(root: string, packages: number, cache: string): void {
  const project = path.join(root, 'project')
  const archives = path.join(root, 'archives')
  fs.mkdirSync(project, { recursive: true })
  fs.mkdirSync(archives)
  const dependencies: Record<string, string> = {}
  for (let i = 0; i < packages; i++) {
    const staging = path.join(root, 'staging/package')
    fs.mkdirSync(path.join(staging, 'lib'), { recursive: true })
    fs.writeFileSync(
      path.join(staging, 'package.json'),
      JSON.stringify({
        name: `bench-${i}`,
        version: '1.0.0',
        main: 'lib/f0.js',
        bin: { [`bench-${i}`]: 'lib/f0.js' },
      }),
    )
    for (let f = 0; f < 50; f++)
      fs.writeFileSync(path.join(staging, `lib/f${f}.js`), `// ${text(1200, i * 50 + f)}`)
    run('tar', ['-C', path.dirname(staging), '-czf', path.join(archives, `bench-${i}-1.0.0.tgz`), 'package'])
    fs.rmSync(path.dirname(staging), { recursive: true })
    dependencies[`bench-${i}`] = `file:../archives/bench-${i}-1.0.0.tgz`
  }
  fs.writeFileSync(
    path.join(project, 'package.json'),
    JSON.stringify({ name: 'bench', version: '1.0.0', dependencies }),
  )
  fs.mkdirSync(cache, { recursive: true })
  run('npm', ['install', '--package-lock-only', '--ignore-scripts'], {
    cwd: project,
    env: npmEnvironment(cache),
  })
}

export function npmEnvironment(cache: string): Record<string, string> {
  return {
    HOME: cache,
    npm_config_cache: cache,
    npm_config_offline: 'true',
    npm_config_audit: 'false',
    npm_config_fund: 'false',
    npm_config_update_notifier: 'false',
    npm_config_loglevel: 'error',
  }
}

/** A C program of `files` sources, and a Makefile. */
export function makeCProject(root: string, files: number): void {
  fs.mkdirSync(path.join(root, 'src'), { recursive: true })
  let header = ''
  let calls = ''
  for (let i = 0; i < files; i++) {
    header += `int f${i}(int x);\n`
    calls += `  x = f${i}(x);\n`
    const source = `#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include "all.h"
int f${i}(int x) { char b[64]; snprintf(b, sizeof b, "%d", x); return atoi(b) + (int)strlen(b) + ${i}; }\n`
    fs.writeFileSync(path.join(root, `src/f${i}.c`), source)
  }
  fs.writeFileSync(path.join(root, 'src/all.h'), header)
  fs.writeFileSync(
    path.join(root, 'src/main.c'),
    `#include <stdio.h>\n#include "all.h"\nint main(void) {\n  int x = 0;\n${calls}  printf("%d\\n", x);\n  return 0;\n}\n`,
  )
  fs.writeFileSync(
    path.join(root, 'Makefile'),
    'o = $(patsubst src/%.c,src/%.o,$(wildcard src/*.c))\nprogram: $(o)\n\t$(CC) -o $@ $(o)\n%.o: %.c\n\t$(CC) -O1 -MMD -c -o $@ $<\n',
  )
}
