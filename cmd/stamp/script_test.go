package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"stamp/appliance/admin"
	"stamp/extentstore"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"stamp": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":     cmdServe,
			"status":    cmdStatus,
			"holdport":  cmdHoldPort,
			"freespace": cmdFreeSpace,
			"freeport":  cmdFreePort,
			"expand":    cmdExpand,
			"ready":     cmdReady,
			"disks":     cmdDisks,
			"condition": cmdCondition,
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "fuse":
				_, err := os.Stat("/dev/fuse")
				return err == nil && os.Getuid() == 0, nil
			case "root":
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("no condition %q", cond)
		},
	})
}

// serving is what the scripts need of endpoints.json.
type serving struct {
	PID              int    `json:"pid"`
	Blob             string `json:"blob"`
	File             string `json:"file"`
	Metrics          string `json:"metrics"`
	ConnectionString string `json:"connectionString"`
}

// cmdServe waits until a stamp serves a location and puts its addresses into
// the environment: serve LOCATION [PID-OF-A-DEAD-ONE].
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: serve LOCATION [OLDPID]")
	}
	name := filepath.Join(ts.MkAbs(args[0]), "endpoints.json")
	old := 0
	if len(args) == 2 {
		old, _ = strconv.Atoi(args[1])
	}
	var s serving
	for began := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		b, err := os.ReadFile(name)
		if err == nil && json.Unmarshal(b, &s) == nil && s.PID != old {
			break
		}
		if time.Since(began) > 20*time.Second {
			ts.Fatalf("%s has not come within 20 s", name)
		}
	}
	ts.Setenv("AZURE_STORAGE_CONNECTION_STRING", s.ConnectionString)
	ts.Setenv("STAMP_LOCATION", ts.MkAbs(args[0]))
	ts.Setenv("BLOB", s.Blob)
	ts.Setenv("FILE", s.File)
	ts.Setenv("METRICS", s.Metrics)
	ts.Setenv("PID", strconv.Itoa(s.PID))
}

// cmdStatus runs a command and wants an exit code: status CODE COMMAND...
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		got = -1
		if exit, ok := err.(interface{ ExitCode() int }); ok {
			got = exit.ExitCode()
		}
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d (%v), want %s", got, err, args[0])
	}
}

// cmdHoldPort listens on a port for the rest of the script: holdport VAR.
func cmdHoldPort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: holdport VAR")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv(args[0], strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

// cmdFreePort finds addresses of loopback that nobody listens on: freeport VAR...
func cmdFreePort(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		defer l.Close() // not before all are found
		ts.Setenv(name, l.Addr().String())
	}
}

// cmdExpand puts the values of variables into files: expand FILE...
func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o644))
	}
}

// cmdReady waits until a process says on its metrics port that it serves: ready
// ADDRESS.
func cmdReady(ts *testscript.TestScript, neg bool, args []string) {
	wait(ts, func() (done bool, state string) {
		resp, err := http.Get("http://" + args[0] + "/readyz")
		if err != nil {
			return false, err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode == http.StatusOK, fmt.Sprint(string(b), err)
	})
}

// wait waits for something that comes soon.
func wait(ts *testscript.TestScript, done func() (bool, string)) {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		ok, state := done()
		if ok {
			return
		}
		if time.Since(began) > time.Minute {
			ts.Fatalf("not within a minute: %s", state)
		}
	}
}

// layerOf asks the rack that the environment names.
func layerOf(ts *testscript.TestScript) (l admin.Layer, state string) {
	cmd := exec.Command("stamp", "status", "-o", "json")
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"STAMP_MANAGERS", "STAMP_CERTIFICATES", "STAMP_AS"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &l)
	}
	return l, fmt.Sprint(string(out), err)
}

// cmdDisks waits until so many disks serve: disks N.
func cmdDisks(ts *testscript.TestScript, neg bool, args []string) {
	wait(ts, func() (bool, string) {
		l, state := layerOf(ts)
		n := 0
		for _, d := range l.Disks {
			if d.Condition == string(extentstore.DiskServing) {
				n++
			}
		}
		return strconv.Itoa(n) == args[0], state
	})
}

// cmdCondition waits until a disk is in a condition: condition DISK CONDITION.
func cmdCondition(ts *testscript.TestScript, neg bool, args []string) {
	wait(ts, func() (bool, string) {
		l, state := layerOf(ts)
		for _, d := range l.Disks {
			if string(d.ID) == args[0] && d.Condition == args[1] {
				return true, ""
			}
		}
		return false, state
	})
}

// cmdFreeSpace mounts a small file system: freespace DIR SIZE.
func cmdFreeSpace(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: freespace DIR SIZE")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[1]))
	ts.Defer(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}
