package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestArguments: what is refused, with which code, and what is said where.
func TestArguments(t *testing.T) {
	t.Parallel()
	stamp := `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9} \[anonymous-instance:main\] `
	failing := func(code string) string { return stamp + `Firecracker exiting with error\. exit_code=` + code + `\n$` }
	for _, c := range []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{"version", []string{"--version"}, 0, `^Firecracker v1\.16\.1\n\n` + stamp + `Firecracker exiting successfully\. exit_code=0\n$`, `^$`},
		{"version goes before mistakes", []string{"--bogus", "--version"}, 0, `^Firecracker v`, `^$`},
		{"unknown", []string{"--bogus"}, 153, `^` + stamp + `Arguments parsing error: Found argument 'bogus' which wasn't expected, or isn't valid in this context\. \\n\\nFor more information try --help\.\n` + failing("153"), `^Error: ParseArguments\(UnexpectedArgument\("bogus"\)\)\n$`},
		{"no option", []string{"x"}, 153, failing("153"), `UnexpectedArgument\("x"\)`},
		{"with an equals sign", []string{"--level=Off"}, 153, failing("153"), `UnexpectedArgument\("level=Off"\)`},
		{"twice", []string{"--level", "Off", "--level", "Off"}, 153, `The argument 'level' was provided more than once\.`, `DuplicateArgument\("level"\)`},
		{"no value", []string{"--level"}, 153, `The argument 'level' requires a value, but none was supplied\.`, `MissingValue\("level"\)`},
		{"an option for a value", []string{"--api-sock", "--level", "Off"}, 153, failing("153"), `MissingValue\("api-sock"\)`},
		{"together", []string{"--no-seccomp", "--seccomp-filter", "x"}, 153, `Argument 'seccomp-filter' cannot be used together with argument 'no-seccomp'\.`, `ForbiddenArgument\("no-seccomp", "seccomp-filter"\)`},
		{"alone", []string{"--no-api"}, 153, `Argument 'config-file' required, but not found\.`, `MissingArgument\("config-file"\)`},
		{"level", []string{"--level", "loud"}, 152, `Invalid value for logger level: Failed to parse string to level filter: loud\.Possible values: \[Error, Warning, Info, Debug\]\n` + failing("152"), `^Error: InvalidLogLevel\(LevelFilterFromStrError\("loud"\)\)\n$`},
		{"log file", []string{"--log-path", "/no/where"}, 1, `Could not initialize logger: Failed to open target file: No such file or directory \(os error 2\)\n` + failing("1"), `^Error: LoggerInitialization\(LoggerUpdateError\(Os \{ code: 2,`},
		{"socket is there", []string{"--api-sock", "{dir}/used"}, 1, `Running Firecracker v1\.16\.1\n` + stamp + `RunWithApiError error: Failed to open the API socket at: .*/used\. Check that it is not already used\.\n` + failing("1"), `^Error: RunWithApi\(FailedToBindSocket\(".*/used"\)\)\n$`},
		{"silent", []string{"--api-sock", "{dir}/used", "--level", "Off"}, 1, `^$`, `^Error: RunWithApi\(FailedToBindSocket\(".*/used"\)\)\n$`},
		{"no directory", []string{"--api-sock", "{dir}/no/where"}, 1, `Failed to bind and run the HTTP server: IO error: No such file or directory \(os error 2\)`, `^Error: RunWithApi\(FailedToBindAndRunHttpServer\(IOError\(Os \{ code: 2, .*\}\)\)\)\n$`},
		{"name of the instance", []string{"--id", "a_b"}, abort, `Firecracker panicked.*Invalid instance ID`, `^$`},
		{"limit", []string{"--http-api-max-payload-size", "x"}, abort, `Firecracker panicked.*'http-api-max-payload-size' parameter expected`, `^$`},
	} {
		for _, p := range programs() {
			t.Run(c.name+"/"+p.name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, "used"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				stdout, stderr, code := once(t, p.path(t), dir, c.args...)
				if code != c.code && (c.code != abort || code != -6) {
					t.Errorf("exit code %d instead of %d", code, c.code)
				}
				if !regexp.MustCompile(`(?s)` + c.stdout).MatchString(stdout) {
					t.Errorf("standard output is\n%s\nwhich is not\n%s", stdout, c.stdout)
				}
				if !regexp.MustCompile(c.stderr).MatchString(stderr) {
					t.Errorf("standard error is\n%s\nwhich is not\n%s", stderr, c.stderr)
				}
			})
		}
	}
}

// abort is the stand-in's code for a death by SIGABRT.
const abort = 134
