{
  'targets': [
    {
      'target_name': 'lamina',
      'sources': [
        'native/addon.cc',
        'native/abi.cc',
        'native/account.cc',
        'native/answers.cc',
        'native/attr.cc',
        'native/channel.cc',
        'native/channel-methods.cc',
        'native/channel-names.cc',
        'native/cred.cc',
        'native/data-plane.cc',
        'native/device.cc',
        'native/dir.cc',
        'native/file.cc',
        'native/file-attributes.cc',
        'native/file-table.cc',
        'native/handle.cc',
        'native/jobs.cc',
        'native/journal.cc',
        'native/js-stack.cc',
        'native/map.cc',
        'native/mount.cc',
        'native/name.cc',
        'native/names.cc',
        'native/orphan-holder.cc',
        'native/patience.cc',
        'native/pipe.cc',
        'native/process.cc',
        'native/socket.cc',
        'native/work-queue.cc',
        'native/write-data.cc',
        'native/xattr.cc',
      ],
      # The names of system calls, from the headers of the machine it is built on.
      'actions': [
        {
          'action_name': 'syscalls',
          'inputs': ['native/syscalls.sh'],
          'outputs': ['<(SHARED_INTERMEDIATE_DIR)/syscalls.inc'],
          'action': ['sh', 'native/syscalls.sh', '<@(_outputs)'],
        },
      ],
      'include_dirs': ['<(SHARED_INTERMEDIATE_DIR)'],
      'defines': ['NAPI_VERSION=8', '_GNU_SOURCE', '_FILE_OFFSET_BITS=64'],
      # node's own common.gypi sets -std=gnu++17 or gnu++20 according to its version; ours comes last and wins.
      'cflags_cc!': ['-std=gnu++17', '-std=gnu++1y', '-fno-omit-frame-pointer'],
      'cflags_cc': [
        '-std=c++20', '-Wall', '-Wextra', '-Werror', '-Wno-cast-function-type', '-fvisibility=hidden',
        '-fvisibility-inlines-hidden', '-fno-exceptions', '-fno-rtti', '-O2',
      ],
    },
    {
      # A program of its own, in C: what it links is what it costs every mount.
      'target_name': 'lamina-keeper',
      'type': 'executable',
      'sources': [
        'native/keeper/keeper.c',
        'native/keeper/life.c',
        'native/keeper/messages.c',
        'native/keeper/mountpoint.c',
        'native/keeper/text.c',
        'native/keeper/threads.c',
        'native/keeper/watchdog.c',
      ],
      'cflags_c': ['-std=gnu11', '-Wall', '-Wextra', '-Werror', '-O2'],
      'ldflags': ['-Wl,--as-needed'],
    },
    {
      # Joining a user namespace takes a process with one thread, which Node is not.
      'target_name': 'lamina-userns',
      'type': 'executable',
      'sources': ['native/userns/userns.c'],
      'cflags_c': ['-std=gnu11', '-Wall', '-Wextra', '-Werror', '-O2'],
      'ldflags': ['-Wl,--as-needed'],
    },
    {
      # Runs from memory inside containers: linked with all that it needs, since there the loader would be theirs.
      'target_name': 'lamina-enter',
      'type': 'executable',
      'sources': ['native/enter/enter.c'],
      'cflags_c': ['-std=gnu11', '-Wall', '-Wextra', '-Werror', '-O2'],
      'ldflags': ['-static'],
    },
  ],
}
