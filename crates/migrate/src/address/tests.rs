use super::*;
use crate::cancel::Cancel;
use std::os::unix::net::UnixListener;

fn parsed(text: &str) -> Result<Address, ParseAddressError> {
    text.parse()
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("vellum-address-{}-{name}", std::process::id()))
}

#[test]
fn addresses_are_written_as_they_are_read() {
    for text in
        ["tcp:localhost:7000", "tcp:[::1]:0", "tcp:127.0.0.1:65535", "unix:/a b/c", "unix:x:y"]
    {
        assert_eq!(parsed(text).expect("an address").to_string(), text);
    }
}

#[test]
fn what_is_no_address_is_told_how_one_looks() {
    assert_eq!(parsed("/tmp/x"), Err(ParseAddressError::Scheme("/tmp/x".into())));
    assert_eq!(parsed("udp:a:1"), Err(ParseAddressError::Scheme("udp:a:1".into())));
    assert_eq!(parsed("unix:"), Err(ParseAddressError::NoPath));
    for bad in ["7000", "host", "host:", ":7000", "host:65536", "host:http", ""] {
        assert_eq!(parsed(&format!("tcp:{bad}")), Err(ParseAddressError::HostPort(bad.into())));
    }
    assert!(parsed("tcp:x").expect_err("no port").to_string().contains("tcp:HOST:PORT"));
}

#[test]
fn a_used_port_is_named() {
    let first = Listener::bind(&parsed("tcp:127.0.0.1:0").expect("an address")).expect("free");
    let address = first.address().expect("it has one");
    let error = Listener::bind(&address).expect_err("taken");
    assert!(matches!(&error, ListenError::InUse(named) if *named == address), "{error}");
}

#[test]
fn a_used_socket_a_stale_one_and_a_file_are_told_apart() {
    let socket = path("socket");
    let address = Address::Unix(socket.clone());
    let first = Listener::bind(&address).expect("free");
    assert!(matches!(Listener::bind(&address), Err(ListenError::InUse(_))));
    drop(first);
    assert!(!socket.exists(), "its file goes with it");
    // A process that is killed leaves its file.
    drop(UnixListener::bind(&socket).expect("free again"));
    let stale = Listener::bind(&address).expect_err("the file is there");
    assert!(matches!(stale, ListenError::Stale(_)), "{stale}");
    assert!(stale.to_string().contains("remove the file"));
    std::fs::remove_file(&socket).expect("ours");
    std::fs::write(&socket, "data").expect("a file");
    assert!(matches!(Listener::bind(&address), Err(ListenError::NotASocket(_))));
    assert_eq!(std::fs::read(&socket).expect("still there"), b"data");
    std::fs::remove_file(&socket).expect("ours");
}

#[test]
fn a_missing_folder_is_named() {
    let address = Address::Unix(path("nowhere").join("socket"));
    let error = Listener::bind(&address).expect_err("no folder");
    assert!(matches!(error, ListenError::NoFolder(_)), "{error}");
}

#[test]
fn nobody_at_an_address_is_named() {
    let cancel = Cancel::new();
    let unix = Stream::connect(&Address::Unix(path("nobody")), &cancel);
    assert!(matches!(unix, Err(ConnectError::Nobody(_))));
    let listener = Listener::bind(&parsed("tcp:127.0.0.1:0").expect("an address")).expect("free");
    let address = listener.address().expect("it has one");
    drop(listener);
    assert!(matches!(Stream::connect(&address, &cancel), Err(ConnectError::Nobody(_))));
}

#[test]
fn a_cancelled_listener_stops_waiting() {
    let listener = Listener::bind(&parsed("tcp:127.0.0.1:0").expect("an address")).expect("free");
    let cancel = Cancel::new();
    cancel.cancel();
    assert!(listener.accept(&cancel).expect("no error").is_none());
}
