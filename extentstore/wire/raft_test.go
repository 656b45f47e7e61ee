package wire_test

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"stamp"
	"stamp/extentstore/streamtest"
	"stamp/extentstore/wire"
)

const stampID = "11111111-2222-4333-8444-555555555555"

// security is that of a process with the roles given as "extent/en1".
func security(ca *streamtest.CA, roles ...string) wire.Security {
	var uris []string
	for _, r := range roles {
		uris = append(uris, "stamp://"+stampID+"/"+r)
	}
	return wire.Security{TLS: ca.TLS(uris...), Stamp: stampID}
}

func listen(t testing.TB, s wire.Security) *wire.Listener {
	t.Helper()
	l, err := wire.Listen(wire.ListenOptions{Address: "127.0.0.1:0", Security: s, Handshake: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// counter is the state machine of a log of test.
type counter struct{ n int }

func (c *counter) Apply(l *raft.Log) any               { c.n += len(l.Data); return c.n }
func (c *counter) Snapshot() (raft.FSMSnapshot, error) { return nil, fmt.Errorf("no snapshots here") }
func (c *counter) Restore(io.ReadCloser) error         { return nil }

func testRaft(t *testing.T, secure func(i int) wire.Security) {
	var servers []raft.Server
	var layers []raft.StreamLayer
	for i := range 3 {
		l := listen(t, secure(i))
		layer, err := l.Raft("")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Raft(""); stamp.KindOf(err) != stamp.Invalid {
			t.Fatalf("the log's transport was taken twice: %v", err)
		}
		layers = append(layers, layer)
		servers = append(servers, raft.Server{ID: raft.ServerID(fmt.Sprint("m", i)), Address: raft.ServerAddress(layer.Addr().String())})
	}
	members := make([]*raft.Raft, 3)
	for i, layer := range layers {
		conf := raft.DefaultConfig()
		conf.LocalID = servers[i].ID
		conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 300*time.Millisecond, 300*time.Millisecond, 200*time.Millisecond
		conf.LogOutput = io.Discard
		store := raft.NewInmemStore()
		transport := raft.NewNetworkTransport(layer, 3, 2*time.Second, io.Discard)
		if err := raft.BootstrapCluster(conf, store, store, raft.NewInmemSnapshotStore(), transport, raft.Configuration{Servers: servers}); err != nil {
			t.Fatal(err)
		}
		r, err := raft.NewRaft(conf, &counter{}, store, store, raft.NewInmemSnapshotStore(), transport)
		if err != nil {
			t.Fatal(err)
		}
		members[i] = r
		t.Cleanup(func() {
			if err := r.Shutdown().Error(); err != nil {
				t.Error(err)
			}
			if err := transport.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no leader took a command")
		}
		for _, r := range members {
			if r.State() != raft.Leader {
				continue
			}
			f := r.Apply([]byte("abc"), time.Second)
			if f.Error() == nil {
				if got := f.Response(); got != 3 {
					t.Fatalf("the command gave %v", got)
				}
				return
			}
		}
	}
}

func TestRaftSecure(t *testing.T) {
	ca := streamtest.NewCA(t)
	testRaft(t, func(i int) wire.Security { return security(ca, fmt.Sprint("manager/m", i)) })
}

func TestRaftInsecure(t *testing.T) {
	testRaft(t, func(int) wire.Security { return wire.Security{Insecure: true} })
}

// TestRaftRefuses dials the log as somebody who is no member.
func TestRaftRefuses(t *testing.T) {
	ca := streamtest.NewCA(t)
	layer, err := listen(t, security(ca, "manager/m1")).Raft("")
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan net.Conn)
	go func() {
		for {
			c, err := layer.Accept()
			if err != nil {
				close(taken)
				return
			}
			taken <- c
		}
	}()
	t.Cleanup(func() {
		layer.Close()
		for range taken {
		}
	})
	stranger := wire.Security{TLS: ca.TLS("stamp://another/manager/m1"), Stamp: "another"}
	for name, s := range map[string]wire.Security{
		"an ExtentNode":      security(ca, "extent/en1"),
		"another stamp":      stranger,
		"another CA":         security(streamtest.NewCA(t), "manager/m2"),
		"without TLS":        {Insecure: true},
		"without identities": security(ca),
	} {
		client, err := listen(t, s).Raft("")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := client.Dial(raft.ServerAddress(layer.Addr().String()), time.Second)
		if err != nil {
			continue
		}
		// With TLS 1.3 the client may learn of it from its first read only.
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: got an answer", name)
		} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Errorf("%s: the connection stays open", name)
		}
		conn.Close()
	}
	good, err := listen(t, security(ca, "manager/m2")).Raft("")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := good.Dial(raft.ServerAddress(layer.Addr().String()), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	(<-taken).Close()
	conn.Close()
	// A manager does not take an ExtentNode for a member either.
	notMember, err := listen(t, security(ca, "extent/en1")).Raft("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := good.Dial(raft.ServerAddress(notMember.Addr().String()), 5*time.Second); stamp.KindOf(err) != stamp.Denied {
		t.Fatalf("reached an ExtentNode as a member: %v", err)
	}
}

func TestInsecureIsLoopbackOnly(t *testing.T) {
	if l, err := wire.Listen(wire.ListenOptions{Address: "0.0.0.0:0", Security: wire.Security{Insecure: true}}); stamp.KindOf(err) != stamp.Denied {
		t.Fatalf("got %v, %v", l, err)
	}
	for _, s := range []wire.Security{{}, {TLS: streamtest.NewCA(t).TLS()}, {TLS: streamtest.NewCA(t).TLS(), Stamp: "s", Insecure: true}} {
		if l, err := wire.Listen(wire.ListenOptions{Address: "127.0.0.1:0", Security: s}); stamp.KindOf(err) != stamp.Invalid {
			t.Errorf("got %v, %v", l, err)
		}
	}
}
