package gbatch

import "syscall"

// neverNamed is O_TMPFILE of open(2): it creates a file without a name in a
// folder. Not every file system supports it.
const neverNamed = 0x400000 | syscall.O_DIRECTORY
