package ssfilter

import "strings"

// autobound holds where the kernel chose the local port.
type autobound struct{}

// Autobound holds where no bind(2) of this very socket named the local port, that
// is where SOCK_BINDPORT_LOCK is not among its sk_userlocks. Accepted sockets are
// therefore autobound (sk_clone drops that lock), and so are minisockets, which
// have no locks.
func Autobound() Expr { return autobound{} }

func (autobound) Eval(c *Conn) Tri { return c.Autobound }

func (a autobound) String() string { return text(a) }

func (autobound) print(b *strings.Builder, _ form) { b.WriteString("autobound") }

func (autobound) compile(prog *program, reject label) { prog.emit(opAuto, nil, reject) }
