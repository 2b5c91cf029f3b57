package gbatch

import "syscall"

// neverNamed opens a new file in a folder, O_TMPFILE of open(2). Not every file
// system has it.
const neverNamed = 0x400000 | syscall.O_DIRECTORY
