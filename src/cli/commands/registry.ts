import { createInterface } from 'node:readline/promises'
import type { Command } from 'commander'
import { CliError, print } from '../output.js'
import { ProgressBars } from '../progress.js'
import { onStore, withStore } from '../store-command.js'
import { choice, keepBlobsOption } from './image-transfer.js'

/** `lamina image pull`, `push`; `lamina login`, `logout`. */

interface AccessArguments {
  insecure?: boolean
  creds?: string
  quiet?: boolean
}

interface PullArguments extends AccessArguments {
  platform?: string
  keepBlobs?: boolean
}

function withAccess(command: Command): Command {
  return command
    .option('--insecure', 'plain HTTP, or TLS with a certificate that nobody vouches for')
    .option('--creds <user:password>', 'instead of what login has stored')
    .option('-q, --quiet', 'no progress')
}

function accessOf(options: AccessArguments): {
  insecure?: boolean
  credentials?: { username: string; password: string }
} {
  const colon = options.creds?.indexOf(':') ?? -1
  if (options.creds !== undefined && colon < 1) throw new CliError('--creds takes USER:PASSWORD', 2)
  return {
    ...(options.insecure === true ? { insecure: true } : {}),
    ...(options.creds === undefined
      ? {}
      : {
          credentials: { username: options.creds.slice(0, colon), password: options.creds.slice(colon + 1) },
        }),
  }
}

/** Below `lamina image`. */
export function registerPullPush(image: Command): void {
  withAccess(onStore(image.command('pull')))
    .description('fetch an image from a registry; layers that are here already do not travel')
    .argument('<reference>')
    .option('--platform <os/arch>', 'which image of a multi-platform index; this host otherwise')
    .addOption(keepBlobsOption())
    .addHelpText(
      'after',
      '\nExamples:\n  lamina image pull debian:12\n  lamina image pull --platform linux/arm64 registry.example.com/team/app:2',
    )
    .action(async (reference: string, options: PullArguments, command: Command) => {
      await withStore(command, async (store, signal) => {
        const { pullImage } = await import('../../manager/image-pull.js')
        const { parsePlatform } = await import('../../oci/platform.js')
        using bars = new ProgressBars()
        const pulled = await pullImage(store, reference, {
          ...accessOf(options),
          signal,
          ...(options.keepBlobs === undefined ? {} : { keepBlobs: options.keepBlobs }),
          ...(options.platform === undefined ? {} : { platform: parsePlatform(options.platform) }),
          ...(options.quiet === true
            ? {}
            : {
                onProgress: event =>
                  bars.update(event.id, event.label, event.done, event.total, event.status),
              }),
        })
        print(pulled.id)
      })
    })

  withAccess(onStore(image.command('push')))
    .description('send an image to a registry; what the registry has already does not travel')
    .argument('<image>')
    .argument('[reference]', "where to; the image's own name otherwise")
    .option('--compression <kind>', 'of what is sent: gzip or zstd (default: as it was kept, else gzip)')
    .addHelpText(
      'after',
      '\nExamples:\n  lamina image push registry.example.com/team/app:2\n  lamina image push app localhost:5000/app:2',
    )
    .action(
      async (
        ref: string,
        to: string | undefined,
        options: AccessArguments & { compression?: string },
        command: Command,
      ) => {
        const asked = options.compression
        const packed =
          asked === undefined ? {} : { compression: choice('--compression', asked, ['gzip', 'zstd']) }
        await withStore(command, async (store, signal) => {
          const { pushImage } = await import('../../manager/image-push.js')
          using bars = new ProgressBars()
          const digest = await pushImage(store, ref, {
            ...accessOf(options),
            ...packed,
            signal,
            ...(to === undefined ? {} : { to }),
            ...(options.quiet === true
              ? {}
              : {
                  onProgress: event =>
                    bars.update(event.id, event.label, event.done, event.total, event.status),
                }),
          })
          print(digest)
        })
      },
    )
}

export function register(program: Command): void {
  program
    .command('login')
    .description(
      'check user and password with a registry, and keep them in the file that docker and podman use',
    )
    .argument('[registry]', 'its host', 'docker.io')
    .option('-u, --username <name>', 'who logs in; asked for on a terminal otherwise')
    .option('-p, --password <text>', 'better: --password-stdin, which no other user can see')
    .option('--password-stdin', 'read the password from standard input')
    .option('--authfile <file>', 'where to keep it (default: REGISTRY_AUTH_FILE, or ~/.docker/config.json)')
    .option('--insecure', 'plain HTTP, or TLS with a certificate that nobody vouches for')
    .addHelpText(
      'after',
      '\nExample:\n  echo "$TOKEN" | lamina login -u me --password-stdin registry.example.com',
    )
    .action(async (registry: string, options: LoginArguments) => {
      const { checkLogin } = await import('../../oci/registry.js')
      const { defaultAuthFile, saveCredentials } = await import('../../oci/auth-file.js')
      const username = options.username ?? (await ask('Username: '))
      const password = await passwordOf(options)
      const credentials = { username, password }
      await checkLogin(registry, credentials, options.insecure === true ? { insecure: true } : {})
      const file = options.authfile ?? defaultAuthFile()
      await saveCredentials(registry, credentials, file)
      print(`Login succeeded; kept in ${file}`)
    })

  program
    .command('logout')
    .description('forget user and password of a registry')
    .argument('[registry]', 'its host', 'docker.io')
    .option('--authfile <file>', 'where they are (default: REGISTRY_AUTH_FILE, or ~/.docker/config.json)')
    .addHelpText('after', '\nExample:\n  lamina logout registry.example.com')
    .action(async (registry: string, options: { authfile?: string }) => {
      const { defaultAuthFile, removeCredentials } = await import('../../oci/auth-file.js')
      const file = options.authfile ?? defaultAuthFile()
      if (!(await removeCredentials(registry, file)))
        throw new CliError(`not logged in to ${registry} in ${file}`)
      print(`Removed the login to ${registry} from ${file}`)
    })
}

interface LoginArguments {
  username?: string
  password?: string
  passwordStdin?: boolean
  authfile?: string
  insecure?: boolean
}

async function passwordOf(options: LoginArguments): Promise<string> {
  if (options.password !== undefined) return options.password
  if (options.passwordStdin !== true) return await ask('Password: ')
  const parts: Buffer[] = []
  for await (const chunk of process.stdin) parts.push(Buffer.from(chunk as Uint8Array))
  return Buffer.concat(parts)
    .toString('utf8')
    .replace(/\r?\n$/, '')
}

/** Asks on a terminal only; the answer to a password is not shown. */
async function ask(question: string): Promise<string> {
  if (!process.stdin.isTTY)
    throw new CliError('standard input is no terminal: give --username and --password-stdin', 2)
  const lines = createInterface({ input: process.stdin, output: process.stderr, terminal: true })
  try {
    const answer = lines.question(question)
    if (question.startsWith('Password')) {
      // The question is out; what is typed from here on is not echoed.
      Object.defineProperty(lines, '_writeToOutput', { value: () => undefined })
    }
    return await answer
  } finally {
    lines.close()
    if (question.startsWith('Password')) process.stderr.write('\n')
  }
}
