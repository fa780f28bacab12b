import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { authFiles, findCredentials, removeCredentials, saveCredentials } from '../../src/oci/index.js'

const place = mkdtempSync(join(tmpdir(), 'lamina-auth-'))
t.teardown(() => rmSync(place, { recursive: true, force: true }))
const base64 = (text: string) => Buffer.from(text).toString('base64')

/** What is found for a repository when this is the only file. */
async function find(config: object, repository: string) {
  const file = join(place, 'auth.json')
  writeFileSync(file, JSON.stringify(config))
  return findCredentials(repository, { REGISTRY_AUTH_FILE: file })
}

t.test('the files of podman and docker, or the one that $REGISTRY_AUTH_FILE names', async t => {
  t.same(authFiles({ REGISTRY_AUTH_FILE: '/x/y' }), ['/x/y'])
  t.same(authFiles({ XDG_RUNTIME_DIR: '/run/user/1', XDG_CONFIG_HOME: '/c', DOCKER_CONFIG: '/d' }), [
    '/run/user/1/containers/auth.json',
    '/c/containers/auth.json',
    '/d/config.json',
  ])
  t.equal(await findCredentials('host/x', { REGISTRY_AUTH_FILE: join(place, 'nothing') }), undefined)
})

t.test('the most specific entry wins', async t => {
  const auths = {
    'host:5000': { auth: base64('whole:1') },
    'host:5000/team': { auth: base64('team:2') },
    'host:5000/team/app': { auth: base64('app:3:with:colons') },
  }
  t.equal((await find({ auths }, 'host:5000/team/app'))?.password, '3:with:colons')
  t.equal((await find({ auths }, 'host:5000/team/other'))?.username, 'team')
  t.equal((await find({ auths }, 'host:5000/teammate'))?.username, 'whole')
  t.equal(await find({ auths }, 'other/x'), undefined)
})

t.test('docker’s spellings of its own registry and of others', async t => {
  const hub = { auths: { 'https://index.docker.io/v1/': { auth: base64('me:pw') } } }
  t.equal((await find(hub, 'docker.io/library/debian'))?.username, 'me')
  t.equal(
    (await find({ auths: { 'https://reg.example': { auth: base64('a:b') } } }, 'reg.example/x'))?.username,
    'a',
  )
  t.equal((await find({ auths: { 'docker.io': { auth: base64('a:b') } } }, 'docker.io/x/y'))?.username, 'a')
  t.same(await find({ auths: { r: { username: 'u', password: 'p' } } }, 'r/x'), {
    username: 'u',
    password: 'p',
  })
  t.same(await find({ auths: { r: { auth: base64('u:p'), identitytoken: 'tok' } } }, 'r/x'), {
    username: 'u',
    password: 'p',
    identityToken: 'tok',
  })
  t.equal(await find({ auths: { r: {} } }, 'r/x'), undefined)
})

t.test('broken files say which one', async t => {
  await t.rejects(find({ auths: { r: { auth: base64('nocolon') } } }, 'r/x'), {
    code: 'malformed',
    message: /auth\.json/,
  })
  writeFileSync(join(place, 'bad.json'), '{')
  await t.rejects(findCredentials('r/x', { REGISTRY_AUTH_FILE: join(place, 'bad.json') }), {
    code: 'malformed',
    message: /bad\.json/,
  })
})

t.test('credential helpers are asked, and only asked', async t => {
  const bin = join(place, 'bin')
  mkdirSync(bin)
  const helper = (name: string, script: string) => {
    writeFileSync(join(bin, `docker-credential-${name}`), `#!/bin/sh\n${script}\n`)
    chmodSync(join(bin, `docker-credential-${name}`), 0o755)
  }
  helper(
    'good',
    `test "$1" = get || exit 9; read server; echo "{\\"ServerURL\\":\\"$server\\",\\"Username\\":\\"$server-user\\",\\"Secret\\":\\"s\\"}"`,
  )
  helper('token', `echo '{"Username":"<token>","Secret":"refresh"}'`)
  helper('none', `echo 'credentials not found in native keychain'; exit 1`)
  helper('broken', `echo 'keychain is locked'; exit 1`)
  const path = process.env['PATH']
  process.env['PATH'] = `${bin}:${path ?? ''}`
  t.teardown(() => {
    process.env['PATH'] = path
  })
  const helpers = {
    credHelpers: {
      'a.example': 'good',
      'b.example': 'token',
      'c.example': 'none',
      'd.example': 'broken',
      'e.example': 'absent',
      'f.example': '../evil',
    },
  }
  t.same(await find(helpers, 'a.example/x/y'), { username: 'a.example-user', password: 's' })
  t.equal((await find(helpers, 'b.example/x'))?.identityToken, 'refresh')
  t.equal(await find(helpers, 'c.example/x'), undefined)
  await t.rejects(find(helpers, 'd.example/x'), { code: 'unauthorized', message: /locked/ })
  await t.rejects(find(helpers, 'e.example/x'), { code: 'unauthorized', message: /docker-credential-absent/ })
  await t.rejects(find(helpers, 'f.example/x'), { code: 'malformed' })
  t.equal(
    (await find({ credsStore: 'good', auths: { 'g.example': {} } }, 'g.example/x'))?.username,
    'g.example-user',
  )
})

t.test('login and logout keep everything else in the file, which is private', async t => {
  const file = join(place, 'sub', 'config.json')
  await saveCredentials('docker.io', { username: 'a', password: 'b' }, file)
  t.equal(statSync(file).mode & 0o777, 0o600)
  const config = JSON.parse(readFileSync(file, 'utf8')) as { auths: object; HttpHeaders?: object }
  t.same(Object.keys(config.auths), ['https://index.docker.io/v1/'])
  writeFileSync(file, JSON.stringify({ ...config, HttpHeaders: { X: '1' } }))
  await saveCredentials('reg.example:5000', { username: 'c', password: 'd' }, file)
  const env = { REGISTRY_AUTH_FILE: file }
  t.equal((await findCredentials('docker.io/library/x', env))?.username, 'a')
  t.equal((await findCredentials('reg.example:5000/x', env))?.username, 'c')
  t.equal(await removeCredentials('docker.io', file), true)
  t.equal(await removeCredentials('docker.io', file), false)
  t.same((JSON.parse(readFileSync(file, 'utf8')) as { HttpHeaders?: object }).HttpHeaders, { X: '1' })
  t.equal(await findCredentials('docker.io/library/x', env), undefined)
})
