package cli

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"gbatch/pkg/guess"
	"gbatch/pkg/lockfile"
	"gbatch/pkg/model"
)

// prefix begins the environment variables of the flags.
const prefix = "GBATCH"

// variables are the environment variables of the flags of all commands. A test
// at the root of the module compares the list with the commands.
var variables = []string{
	"GBATCH_AGAINST", "GBATCH_ALLOW_PARTIAL", "GBATCH_ALLOW_REMOTE", "GBATCH_ARRAY", "GBATCH_BACKEND",
	"GBATCH_BASE_PATH", "GBATCH_BUCKET", "GBATCH_CANARY", "GBATCH_COLUMN", "GBATCH_CUTOFF", "GBATCH_DELAY",
	"GBATCH_DIGITS", "GBATCH_DIM", "GBATCH_DIR", "GBATCH_DRY_RUN", "GBATCH_EMBEDDINGS", "GBATCH_FAILED",
	"GBATCH_FAULT", "GBATCH_FAULT_FILE", "GBATCH_FILES", "GBATCH_FROM", "GBATCH_HTML", "GBATCH_INTERVAL",
	"GBATCH_IN_ORDER", "GBATCH_JSON", "GBATCH_KEEP_INPUT", "GBATCH_KEY", "GBATCH_KEYS", "GBATCH_LABELS",
	"GBATCH_LEASE", "GBATCH_LIMIT", "GBATCH_LISTEN", "GBATCH_LOCK_TIMEOUT", "GBATCH_LOG_FORMAT", "GBATCH_MAX_ATTEMPTS",
	"GBATCH_MAX_BYTES", "GBATCH_MAX_COST", "GBATCH_MAX_COST_PER_DAY", "GBATCH_MAX_COST_PER_MONTH",
	"GBATCH_MAX_ENQUEUED_TOKENS", "GBATCH_MAX_FILE", "GBATCH_MAX_JOBS", "GBATCH_MAX_REQUESTS",
	"GBATCH_MAX_TOKENS", "GBATCH_MAX_TOTAL_TOKENS", "GBATCH_MEMORY_LIMIT", "GBATCH_METHOD", "GBATCH_METRICS",
	"GBATCH_MIN_COSINE", "GBATCH_MODEL", "GBATCH_NORMALIZE", "GBATCH_NO_CACHE", "GBATCH_ONCE",
	"GBATCH_PARALLEL", "GBATCH_POLLS", "GBATCH_PROCESSING", "GBATCH_PROGRESS", "GBATCH_QUOTA_JOBS",
	"GBATCH_QUOTA_TOKENS", "GBATCH_RETRY_FAILED", "GBATCH_RETRY_FOR", "GBATCH_SETTLE", "GBATCH_SHAPE", "GBATCH_SHARD",
	"GBATCH_SPACES", "GBATCH_TABLE", "GBATCH_TASK_TYPE", "GBATCH_TIER", "GBATCH_TIMEOUT", "GBATCH_TOKENS",
	"GBATCH_TOKEN_LIFE", "GBATCH_TRUNCATE", "GBATCH_VECTORS", "GBATCH_WATCH",
}

// others are the variables of the project that belong to no flag. The last one is
// for the tests.
var others = []string{model.PricesVariable, "GBATCH_LIVE"}

// Variables returns the variables that belong to the flags of some commands.
func Variables(commands ...Command) (names []string, err error) {
	for _, cmd := range commands {
		parser, err := (&grammar{Command: cmd}).parser("command")
		if err != nil {
			return nil, err
		}
		for _, f := range parser.Model.Flags {
			names = append(names, f.Envs...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Known returns the variables that no command warns of.
func Known() []string { return variables }

// warnUnknown warns of the variables in an environment that have a value and look like the
// variable of a flag, but belong to no flag of any command. Of the commands in a
// pipe only one warns: it holds a lock until the function that is returned is
// called.
func warnUnknown(environment []string, flags []*kong.Flag) (end func()) {
	end = func() {}
	var unknown []string
	for _, e := range environment {
		v, value, _ := strings.Cut(e, "=")
		own := slices.ContainsFunc(flags, func(f *kong.Flag) bool { return slices.Contains(f.Envs, v) })
		if value != "" && strings.HasPrefix(v, prefix+"_") && !own && !slices.Contains(variables, v) && !slices.Contains(others, v) {
			unknown = append(unknown, v)
		}
	}
	if len(unknown) == 0 {
		return end
	}
	path := filepath.Join(os.TempDir(), fmt.Sprintf("gbatch-warned-%d-%d", os.Geteuid(), syscall.Getpgrp()))
	if f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600); err == nil {
		held, err := lockfile.Try(f)
		if err == nil && !held {
			f.Close()
			return end
		}
		end = func() {
			os.Remove(path)
			f.Close()
		}
	}
	for _, v := range unknown {
		if near := guess.Closest(v, variables, len(prefix)); near != "" {
			slog.Warn("the environment variable is not the variable of a flag, and has no effect", "variable", v, "did_you_mean", near)
		} else {
			slog.Warn("the environment variable is not the variable of a flag, and has no effect", "variable", v)
		}
	}
	return end
}
