//go:build !linux

package gbatch

const neverNamed = 0
