import h5py, subprocess, sys, os, numpy as np, multiprocessing as mp, time
from hpc_sla.storage.hdf5 import open_read
def hold(path, libver, q, stop, lock):
    f=h5py.File(path,'a',libver=libver, locking=lock); f.attrs['x']=1
    if 'y' not in f: f['y']=np.ones(100000)
    f.flush(); q.put(1); stop.wait(); f.close()
if __name__=='__main__':
    for libver in ('earliest','latest'):
      for lock in (True,False):
        p=f'/tmp/files/l_{libver}_{lock}.h5'
        if os.path.exists(p): os.remove(p)
        q=mp.Queue(); stop=mp.Event()
        pr=mp.Process(target=hold,args=(p,libver,q,stop,lock)); pr.start(); q.get()
        try: open_read(p).close(); print(libver,lock,'opened')
        except Exception as e: print(libver,lock,'other process:',e, '|', repr(e.__cause__))
        stop.set(); pr.join()
        # killed writer
        f=subprocess.run([sys.executable,'-c',f"import h5py,os;f=h5py.File({p!r},'a',libver={libver!r});f['z{lock}']=1;f.flush();os._exit(0)"])
        try: open_read(p).close(); print(libver,lock,'opened after kill')
        except Exception as e: print(libver,lock,'killed:',e)
        # same process
        p2=p+'2'
        f=h5py.File(p2,'w',libver=libver); f['a']=1
        try: open_read(p2).close(); print(libver,'same process opened')
        except Exception as e: print(libver,'same process:',e)
        f.close()
