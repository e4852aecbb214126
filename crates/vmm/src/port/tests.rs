use super::*;

fn said(port: Port, size: u8, count: u32) -> Option<Message> {
    Message::of(Access { port: port as u16, size, count }, [1, 2, 3, 4])
}

#[test]
fn a_message_is_an_out_of_its_ports_width() {
    assert_eq!(said(Port::Progress, 4, 1), Some(Message::Progress(0x0403_0201)));
    assert_eq!(said(Port::Console, 1, 1), Some(Message::Console(1)));
    assert_eq!(said(Port::Rest, 1, 1), Some(Message::Rest));
    assert_eq!(said(Port::End, 1, 1), Some(Message::End(1)));
}

#[test]
fn as_many_bytes_in_another_way_are_no_message() {
    for (size, count) in [(1, 4), (2, 2), (4, 2), (4, 0), (1, 1), (2, 1)] {
        assert_eq!(said(Port::Progress, size, count), None, "{count} of {size} bytes");
    }
    for port in [Port::Console, Port::Rest, Port::End] {
        for (size, count) in [(1, 2), (2, 1), (4, 1), (1, 0)] {
            assert_eq!(said(port, size, count), None, "{port:?}: {count} of {size} bytes");
        }
    }
    assert_eq!(Message::of(Access { port: 0x14, size: 1, count: 1 }, [0; 4]), None);
}
