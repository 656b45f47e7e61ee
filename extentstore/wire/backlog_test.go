package wire

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/wire/wirepb"
)

// TestDeafClient has a client that asks for signs of life and reads none: the
// server does not keep them for ever.
func TestDeafClient(t *testing.T) {
	l, err := Listen(ListenOptions{Address: "127.0.0.1:0", Security: Security{Insecure: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := ServeNode(NodeOptions{Listener: l, Node: "en1", Silence: -1, Disk: func(extentstore.DiskID) (extentstore.ExtentNode, error) {
		return nil, stamp.Errorf(stamp.NotFound, "test", "no disk")
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.(*net.TCPConn).SetReadBuffer(4096)
	h := hello{lowest: version, highest: version, client: "deaf", node: "en1"}
	if _, err := c.Write(append([]byte(prefixData), h.encode()...)); err != nil {
		t.Fatal(err)
	}
	ping := begin(nil)
	finish(ping, typePing, 0, 0)
	pings := bytes.Repeat(ping, 1000)
	c.SetWriteDeadline(time.Now().Add(20 * time.Second))
	most := 0
	for range 2000 {
		if _, err = c.Write(pings); err != nil {
			break
		}
		s.mu.Lock()
		for k := range s.sessions {
			k.mu.Lock()
			if k.w != nil {
				most = max(most, k.w.waiting())
			}
			k.mu.Unlock()
		}
		s.mu.Unlock()
	}
	if limit := nClasses*2*defaultCalls + maxSignals + 1; most > limit {
		t.Errorf("%d answers are kept that nobody reads, want %d at most", most, limit)
	}
	if ne, ok := err.(net.Error); err == nil || ok && ne.Timeout() {
		t.Errorf("got %v, want the end of the connection", err)
	}
}

// TestBrokenText sends an error whose text was cut off in the middle of a letter:
// its kind must arrive.
func TestBrokenText(t *testing.T) {
	s := &ManagerServer{opts: ManagerOptions{Leader: func() (string, string) { return "", "" }}}
	sent := s.toStatus(stamp.Errorf(stamp.Fenced, "test", "folder /%s", strings.Repeat("é", 3)[:5]))
	_, verdict, err := judge("test", &member{address: "a"}, sent)
	if verdict != final || stamp.KindOf(err) != stamp.Fenced {
		t.Errorf("got %v of verdict %d, want Fenced, final", err, verdict)
	}
	for _, d := range status.Convert(sent).Details() {
		if _, ok := d.(*wirepb.Failure); !ok {
			t.Errorf("detail %v", d)
		}
	}
}
